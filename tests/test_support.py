"""What the suite leans on: addresses that nobody else is given, and runs that don't pass for what they are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import addresses
from tests.support.whole_run import LEFT_OUT


def test_what_was_given_is_given_to_nobody_else_as_long_as_its_process_lives() -> None:
    ports, hosts = [addresses.free_port() for _ in range(30)], [addresses.loopback_address() for _ in range(30)]
    assert len(set(ports)) == len(set(hosts)) == 30
    number = ports[0] - addresses._FIRST_PORT
    code = "import sys; from tests.support import addresses; print(addresses._claim(int(sys.argv[1])))"
    child = [sys.executable, "-c", code]
    assert subprocess.run([*child, str(number)], capture_output=True, text=True).stdout == "False\n"
    assert {subprocess.run([*child, "40600"], capture_output=True, text=True).stdout for _ in range(2)} == {"True\n"}


@pytest.mark.parametrize(("second", "code"), [(1, 1), (2, LEFT_OUT)], ids=["a test fails", "the workers differ"])
def test_a_run_that_left_tests_out_is_not_taken_for_one_in_which_tests_failed(
    tmp_path: Path, second: int, code: int
) -> None:
    (tmp_path / "conftest.py").write_text("from tests.support.whole_run import pytest_configure as pytest_configure\n")
    (tmp_path / "test_it.py").write_text(f"""
import os, pytest
@pytest.mark.parametrize("n", range({second} if os.environ["PYTEST_XDIST_WORKER"] == "gw1" else 1))
def test_one(n): assert n
""")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "xdist",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert ("NOT RUN: all tests" in done.stdout) == (code == LEFT_OUT)
