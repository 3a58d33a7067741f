"""What a release is made of agrees with itself: versions, pins, notes, workflows. `make release-check` makes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deploy.release import changelog, versions
from deploy.release.versions import FOLDERS, ROOT, ReleaseError

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement, maxsplit=1)[0]


def _pins(file: str) -> dict[str, str]:
    return dict(
        re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==(\S+)", (ROOT / "requirements" / file).read_text(), re.MULTILINE)
    )


def test_all_packages_have_one_version_licence_and_python() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions.version())
    assert {versions.project(folder)["license"] for folder in FOLDERS} == {"Apache-2.0"}
    assert {versions.project(folder)["requires-python"] for folder in FOLDERS} == {">=3.11"}


def test_versions_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    for number, folder in enumerate(FOLDERS):
        (tmp_path / folder).mkdir()
        text = f'[project]\nname = "modelsync-{folder}"\nversion = "1.0.{number // 6}"\ndependencies = []\n'
        (tmp_path / folder / "pyproject.toml").write_text(text)
    with pytest.raises(ReleaseError, match=r"1\.0\.1"):
        versions.version()
    (tmp_path / FOLDERS[-1] / "pyproject.toml").write_text(
        '[project]\nname = "modelsync"\nversion = "1.0.0"\ndependencies = ["modelsync-server[azure]==0.9.0"]\n'
    )
    with pytest.raises(ReleaseError, match=r"modelsync-server\[azure\]==0\.9\.0"):
        versions.version()


def test_wheels_are_installed_from_what_they_ask_for_in_the_versions_that_are_tested() -> None:
    asked = {_name(requirement) for folder in FOLDERS for requirement in versions.requirements(folder)}
    lines = (ROOT / "requirements" / "install.in").read_text().splitlines()
    listed = {_name(line) for line in lines if not line.startswith(("#", "-"))}
    # What is large and only long tests need has pins of its own: it is tested in those versions, and not in dev.txt.
    apart = {name for file in ("mlflow", "dvc") for name in _pins(f"../tests/server/sources/{file}.txt")}
    apart &= {"mlflow-skinny", "dvc"}
    assert len(apart) == 2
    assert listed == {name for name in asked if not name.startswith("modelsync")} - apart
    tested = _pins("dev.txt")
    assert {name: tested.get(name) for name in _pins("install.txt")} == _pins("install.txt"), "run `make lock`"


def test_a_releases_notes_are_its_section_of_the_changelog() -> None:
    text = "# Changelog\n\n## Unreleased\n- new\n\n## 1.0.1 (2026-12-01)\n- mended\n### More\n- x\n\n## 1.0.10\n\n"
    assert changelog.section(text, "1.0.1") == "- mended\n### More\n- x\n"
    assert changelog.section(text, "Unreleased") == "- new\n"
    for absent in ("1.0.10", "1.0", "2.0.0"):  # empty, a beginning, not there
        with pytest.raises(ReleaseError, match=re.escape(absent)):
            changelog.section(text, absent)
    assert changelog.notes(changelog.UNRELEASED)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+)(?: [\w-]+)*:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = yaml.safe_load(path.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    named = {one for step in steps for one in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    for job in jobs.values():
        named |= set(job.get("strategy", {}).get("matrix", {}).get("target", ()))
    assert named <= targets
    for step in steps:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + 40 * "0")), step
