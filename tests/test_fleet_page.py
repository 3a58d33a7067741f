"""docs/fleet.md: its newcomer's path runs as printed, its picture is what the gate says, its commands are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from modelsync_server.cli import rollout_commands
from modelsync_server.rollout.gate import Verdict
from tests.support import fleet_picture
from tests.test_docs import ROOT, going

PAGE = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
MARK = "<!-- tested by tests/test_fleet_page.py -->\n"
MODELS = ROOT / "examples" / "anomaly"


def path_of_four() -> list[str]:
    """The lines of the page's script."""
    found = re.search(rf"{re.escape(MARK)}```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, "the page has no tested block"
    return found[1].splitlines()


@pytest.mark.timeout(300)
def test_from_one_device_to_four_runs_as_the_page_says(tmp_path: Path) -> None:
    """And what the text says of a fifth device that comes later."""
    install, *lines = path_of_four()
    assert install == "pip install ./protocol './server[dashboard]' ./daemon"  # it is installed here
    fifth = """
connection=$(modelsync hub device add car-0005)
sed -e '/^connection_string/d' -e 's/car-4/car-5/' car-4.toml > car-5.toml
echo "connection_string = \\"$connection\\"" >> car-5.toml
modelsyncd run --config car-5.toml &
until modelsyncd status --data car-5 --json 2>/dev/null | grep -q '"state": "active"'; do sleep 0.2; done
"""
    with going("\n".join(["set -e", *lines]) + fifth, tmp_path, seconds=240):
        said = (tmp_path / "said").read_text()
        for number in range(1, 6):
            installed = tmp_path / f"car-{number}" / "models" / "anomaly" / "current" / "model.onnx"
            assert installed.read_bytes() == (MODELS / "v2" / "model.onnx").read_bytes(), number
        # The rings were asked in their order, as the page prints it.
        order = [
            "ring canary passed: 1 device is active",
            "ring rest-50 is open for 2 devices",
            "ring rest-50 passed",
            "ring rest-100 passed",
            "version 2 is what the fleet wants",
        ]
        places = [said.index(each) for each in order]
        assert places == sorted(places), said


def test_the_picture_of_the_gates_is_what_the_gate_says() -> None:
    assert fleet_picture.PICTURE.read_text() == fleet_picture.picture(), "run `make pages`"
    verdicts = [judgement.verdict for judgement in fleet_picture.judged()]
    assert sorted(verdicts) == sorted(Verdict), "each verdict once"


def test_the_pages_commands_have_their_options() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("modelsync rollout ")]
    lines += re.findall(r"`(modelsync rollout \w+[^`]*)`", PAGE)
    used: dict[str, set[str]] = {}
    for line in lines:
        words = shlex.split(line, comments=True)
        used.setdefault(words[2], set()).update(word for word in words if word.startswith("--"))
    assert used.keys() >= {"plan", "start", "run", "watch", "status", "abort", "resume", "list"}
    app = typer.Typer()
    rollout_commands.register(app)
    for command, options in used.items():
        shown = CliRunner().invoke(app, ["rollout", command, "--help"], env={"COLUMNS": "200"}).output
        assert [option for option in options if option not in shown] == [], command


def test_every_picture_of_the_folder_is_on_a_page() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert [path.name for path in (ROOT / "docs" / "fleet").iterdir() if f"fleet/{path.name}" not in pages] == []
