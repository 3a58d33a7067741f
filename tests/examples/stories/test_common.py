"""What the stories share: a supervisor that restarts, a pull that counts, a report that is no empty praise."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo.report import Promise
from examples.demo.stage import StageError
from examples.stories.image import Recipe, Registry, build
from examples.stories.plot import figure
from examples.stories.report import Charge, StoryReport
from examples.stories.telling import Story, tell


async def test_a_killed_module_comes_back_and_is_counted(tmp_path: Path) -> None:
    story = Story("test", tmp_path, Console(quiet=True), short=True)
    story.logs.mkdir(parents=True)
    async with story.stack:
        program = "import time; print('{}', flush=True); time.sleep(60)"
        module = await story.module("sleeper", "python", "-c", program, ready=True)
        first = module.pid
        await module.kill()

        async def back() -> bool:
            return module.pid != first and Path(f"/proc/{module.pid}").exists()

        await story.until("the restart", back, 10)
        assert module.restarts == 1
        last = module.pid
    assert not Path(f"/proc/{last}").exists(), "it ends with the story"


async def test_patience_lengthens_every_wait(tmp_path: Path) -> None:
    asked: list[bool] = []

    async def third_time() -> bool:
        asked.append(True)
        return len(asked) == 3

    with pytest.raises(StageError, match="within 0 s"):
        await Story("test", tmp_path, Console(quiet=True), short=True).until("it", third_time, 0)
    patient = Story("test", tmp_path, Console(quiet=True), short=True, patience=100)
    asked.clear()
    await patient.until("it", third_time, 0.5)


@pytest.mark.parametrize("factor", ["0", "nan", "-1", "1000", "long"])
def test_patience_that_is_none_is_refused(
    factor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["story", "--patience", factor])
    with pytest.raises(SystemExit):
        tell("test", "", lambda _: pytest.fail("it began"))
    assert "--patience" in capsys.readouterr().err


async def test_a_pull_fetches_only_layers_that_are_not_there(tmp_path: Path) -> None:
    below, model = tmp_path / "below", tmp_path / "model.onnx"
    below.mkdir()
    (below / "library").write_bytes(random.randbytes(300_000))
    model.write_bytes(random.randbytes(5_000))
    recipe = Recipe([(below, "lib"), (model, "app")])
    async with Registry() as registry:
        registry.push(build(recipe, tmp_path, "v1", day=0), "v1")
        first = await registry.pull("v1", tmp_path / "device")
        assert 305_000 < first < 312_000
        model.write_bytes(random.randbytes(5_000))
        registry.push(build(recipe, tmp_path, "v2", day=1, kept=1), "v2")
        registry.push(build(recipe, tmp_path, "v3", day=2), "v3")
        assert 5_000 < await registry.pull("v2", tmp_path / "device") < 10_000, "the layer below came from the cache"
        assert await registry.pull("v3", tmp_path / "device") > 300_000, "built anew it has another digest"
        assert await registry.pull("v3", tmp_path / "device") < 3_000


def test_a_report_without_promises_or_with_a_broken_one_is_not_ok(tmp_path: Path) -> None:
    report = StoryReport("test", bill=[Charge("image", "update", 600, "here"), Charge("ours", "update", 200, "here")])
    assert not report.ok
    report.promises = [Promise("it holds", True, "yes")]
    report.write(tmp_path)
    assert json.loads((tmp_path / "story-test.json").read_text())["ok"] is True
    text = (tmp_path / "story-test.txt").read_text()
    assert "3.0" in text and "every promise held" in text
    report.promises = [*report.promises, Promise("it holds too", False, "no")]
    assert not report.ok
    with pytest.raises(ValueError, match="measured"):
        Charge("ours", "update", 200, "")


def test_a_plot_of_the_same_data_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        with figure(tmp_path / name, 2, title="t") as axes:
            axes[0].plot([1, 2, 3])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_small_disk_is_full_when_it_is_filled(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.examples.stories.small_disk", str(tmp_path / "disk")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "needs" in done.stdout or "denied" in done.stdout:
        assert not os.environ.get("CI"), done.stdout
        pytest.skip(done.stdout)
    assert done.stdout.split() == ["full", "room"]
    assert not list((tmp_path / "disk").iterdir()), "nobody else sees what was on it"
