"""One environment in cloud and on the edge: what its verdict finds, its models, and the story itself."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from examples.environment import real, verdict
from examples.environment.edge import Answer
from examples.environment.kit import HERE, small
from modelsync_server.environment.building import build
from tests.examples.stories.running import run_story


def answer(at: float, environment: int, model: int, *values: float, ok: bool = True) -> Answer:
    return Answer(at, ok, environment, model, values)


def test_the_verdict_finds_a_new_model_on_an_old_environment_and_wrong_answers() -> None:
    answers = [
        answer(0, 1, 1, 0.5), answer(1, 0, 0, ok=False), answer(3, 1, 2, 0.7),
        answer(4, 2, 2, 0.7), answer(4.5, 2, 2, 0.71),
    ]  # fmt: skip
    assert verdict.pairs(answers) == [(1, 1), (1, 2), (2, 2)]
    assert verdict.wrong(answers, {1: [0.5], 2: [0.7]}) == 1
    assert verdict.longest_gap(answers) == 3


@pytest.mark.parametrize(
    ("locks", "bump"),
    [
        ("lock", {"joblib==1.5.2", "joblib==1.5.3"}),
        ("real-lock", {"scikit-learn==1.7.1", "scikit-learn==1.7.2"}),
        ("pip-lock", {"pip==23.0.1", "pip==23.2.1"}),
    ],
)
def test_committed_locks_differ_in_one_release_and_name_no_index(locks: str, bump: set[str]) -> None:
    one, two = (set((HERE / f"{locks}-{number}.txt").read_text().splitlines()) for number in (1, 2))
    assert {line.split()[0] for line in one ^ two if "==" in line} == bump
    assert not [line for line in one | two if "://" in line]


def test_the_floor_pairs_a_package_s_own_words_across_releases(tmp_path: Path) -> None:
    words = random.Random(3).randbytes(20_000)
    for number, version in enumerate(("1.0", "1.1"), 1):
        folder = tmp_path / str(number) / "lib" / f"ore-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_bytes(words + version.encode())
        (folder.parent / "same.py").write_text("the same\n")
    found = real.floor(tmp_path / "1", tmp_path / "2")
    assert found["files"] == 1 and found["of_bytes"] == 20_003
    assert found["zstd"] < 100 and found["lzma"] < 400


def test_the_abridged_kit_differs_in_one_file_of_code(tmp_path: Path) -> None:
    kit = small(tmp_path)
    outs = []
    for number, lock in enumerate(kit.locks):
        build(lock, tmp_path / f"e{number}", from_folder=kit.wheels)
        outs.append(
            {p.relative_to(tmp_path / f"e{number}"): p for p in (tmp_path / f"e{number}").rglob("*") if p.is_file()}
        )
    ours = {path.name for path in outs[0] if "assay" not in path.parts and "assay-1.0.dist-info" not in path.parts}
    assert {"python", "check-environment", "line-score", "sitecustomize.py"} <= ours
    changed = [path for path in outs[0] if path in outs[1] and outs[0][path].read_bytes() != outs[1][path].read_bytes()]
    package = Path(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/assay/__init__.py")
    assert set(changed) == {package, Path("environment.json")}


@pytest.mark.timeout(600)
def test_the_abridged_story_of_one_bumped_package(tmp_path: Path) -> None:
    report = run_story("environment", tmp_path, "--short", seconds=560)
    bill = {charge["way"].split(",")[0]: charge["bytes"] for charge in report["bill"]}
    assert bill["modelsync"] * 10 < min(bytes for way, bytes in bill.items() if way != "modelsync")
    assert (tmp_path / "story-environment.svg").stat().st_size > 5_000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_story_in_under_four_minutes(tmp_path: Path) -> None:
    report = run_story("environment", tmp_path, seconds=280)
    assert report["seconds"] < 240, "the issue's own limit"
    assert len(report["promises"]) >= 15
    ways = {charge["way"].split(",")[0]: charge["bytes"] for charge in report["bill"] if "unit" not in charge["what"]}
    assert ways["modelsync"] < min(bytes for way, bytes in ways.items() if way != "modelsync")
