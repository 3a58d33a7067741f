"""What a release's packages are called, and their one version, read from the pyproject files. Builds nothing."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("protocol", "core", "server", "daemon", "inference", "bench", "meta")


class ReleaseError(Exception):
    """The release can't be made; the text says what to mend."""


def project(folder: str) -> dict[str, Any]:
    """The table `[project]` of one package."""
    table: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def requirements(folder: str) -> list[str]:
    """All requirements of one package, its extras' too."""
    table = project(folder)
    extras = table.get("optional-dependencies", {})
    return [*table["dependencies"], *(one for extra in extras.values() for one in extra)]


def version() -> str:
    """The version of all packages. ReleaseError if they differ, or if one asks for another version of ours."""
    found = {folder: str(project(folder)["version"]) for folder in FOLDERS}
    (first, *others) = sorted(set(found.values()))
    if others:
        raise ReleaseError(f"versions differ: {found}")
    ours = {str(project(folder)["name"]) for folder in FOLDERS}
    for folder in FOLDERS:
        for requirement in requirements(folder):
            name, _, wanted = requirement.partition("==")
            if name.partition("[")[0] in ours and wanted not in ("", first):
                raise ReleaseError(f"{folder}/pyproject.toml asks for {requirement}, but the version is {first}")
    return first
