"""Every command says its version, names what was probably meant, and completes where argcomplete is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

COMMANDS = {
    "modelsync": "modelsync-server",
    "modelsyncd": "modelsync-daemon",
    "modelsync-infer": "modelsync-inference",
    "modelsync-bench": "modelsync-bench",
}


def run(command: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name(command), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_its_version(command: str) -> None:
    done = run(command, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{command} {version(COMMANDS[command])}\n", "")


@pytest.mark.parametrize(
    ("command", "words", "meant"),
    [
        ("modelsyncd", ["pul"], "(did you mean 'pull'?)"),
        ("modelsyncd", ["status", "--data", "x", "--jsn"], "(did you mean '--json'?)"),
        ("modelsync-infer", ["--data", "x", "--model", "m", "--wokers", "2"], "(did you mean '--workers'?)"),
        ("modelsync-infer", ["--data", "x", "--model", "m", "--isolation", "proces"], "(did you mean 'process'?)"),
    ],
)
def test_a_slip_names_what_was_meant(command: str, words: list[str], meant: str) -> None:
    done = run(command, *words)
    assert done.returncode == 2 and meant in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "line", "offered"),
    [
        ("modelsyncd", "modelsyncd sta", {"status"}),
        ("modelsyncd", "modelsyncd doctor --of", {"--offline"}),
        ("modelsync-infer", "modelsync-infer --data x --work", {"--workers"}),
    ],
)
def test_commands_and_options_complete_in_a_shell(command: str, line: str, offered: set[str]) -> None:
    """As bash calls it; the answer goes to a descriptor, or to the file that argcomplete is given instead."""
    with tempfile.NamedTemporaryFile() as answer:
        run(
            command,
            _ARGCOMPLETE="1",
            _ARGCOMPLETE_STDOUT_FILENAME=answer.name,
            _ARGCOMPLETE_IFS="\n",
            COMP_LINE=line,
            COMP_POINT=str(len(line)),
        )
        assert {word.strip() for word in answer.read().decode().split("\n")} == offered


def test_a_device_that_completes_nothing_loads_no_argcomplete() -> None:
    code = "import sys; from modelsync_daemon import cli; cli._parser(); print('argcomplete' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
