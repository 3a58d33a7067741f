"""The documents say what is so: the README's commands run as they stand, and its links lead somewhere."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelsync_daemon.disk.states import State
from tests.support import cli_reference, readme, walks

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def going(script: str, folder: Path, seconds: float = 90) -> Iterator[None]:
    """Runs a script in `folder`, in a copy of what it needs, to its own end; ends what it left running afterwards."""
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            # The script ends while its background processes go on, so its own end is what is waited for.
            assert process.wait(timeout=seconds) == 0, (folder / "said").read_text()
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_two_minute_path_runs_as_the_readme_says(tmp_path: Path) -> None:
    """And behind it all Python of README and docs/api.md: both need a hub, an origin and a device that are there."""
    set_up, _ = readme.two_minutes()
    assert set_up[0].startswith("python3 -m venv") and set_up[1].startswith("pip install ./protocol")
    assert len(readme.python()) >= 2
    # The packages are installed already; all else runs as printed.
    with going(readme.python_after_two_minutes(), tmp_path):
        for device, version in (("device", "v1"), ("device2", "v2")):
            installed = tmp_path / device / "models" / "anomaly" / "current" / "model.onnx"
            assert installed.read_bytes() == (ROOT / "examples" / "anomaly" / version / "model.onnx").read_bytes()


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


def test_where_the_next_line_goes_is_there() -> None:
    text = (ROOT / "docs" / "contributing.md").read_text()
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text)
    assert named
    kept = [path for path in named if not path.startswith(".venv/")]  # what is made there comes with `make docs`
    assert [path for path in kept if not (ROOT / path).exists()] == []


def test_the_page_of_commands_is_what_the_parsers_say() -> None:
    page = cli_reference.page()
    for command in ("modelsync publish", "modelsync keys rotate", "modelsyncd pull", "modelsync-infer"):
        assert re.search(rf"^#+ {command}$", page, re.MULTILINE), command
    assert cli_reference.PAGE.read_text() == page, "run `make pages`"


@pytest.mark.parametrize("name", sorted(walks.WALKS))
def test_a_walks_picture_is_what_the_code_says(name: str) -> None:
    assert (walks.FOLDER / f"{name}.svg").read_text() == walks.picture(walks.WALKS[name]), "run `make pages`"


def test_a_walk_that_the_code_does_not_have_is_refused() -> None:
    for walk in (
        [walks.Stop("daemon/attic")],
        [walks.Stop("daemon/disk"), walks.Stop("daemon/control"), walks.Stop("daemon/build")],
        [walks.Stop("inference/model"), walks.Stop("server/store")],
        [walks.Stop("daemon/activate", (State.IDLE, State.PROBATION))],
    ):
        with pytest.raises(walks.WalkError):
            walks.picture(walk)


def test_readme_names_the_commands_that_exist() -> None:
    for command in ("modelsync", "modelsyncd", "modelsync-infer"):
        assert Path(sys.executable).with_name(command).exists()
    text = subprocess.run(
        [Path(sys.executable).with_name("modelsync"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in (
        "init",
        "publish",
        "list",
        "price",
        "verify",
        "withdraw",
        "refresh",
        "keys",
        "serve",
        "hub",
        "twin",
    ):
        assert re.search(rf"\b{command}\b", text), command
