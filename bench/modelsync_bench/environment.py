"""A Python environment of several thousand files, of which one package is bumped.

Made from the packages that are installed beside this program (their versions are pinned, so it is the same everywhere);
the older version of the bumped one comes from the wheels that Python itself bundles.
"""

from __future__ import annotations

import ensurepip
import importlib.metadata
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from modelsync_bench.peers.port import Job
from modelsync_bench.scenarios import Task

ENVIRONMENT = "environment"
_PACKAGES = ("sympy", "mpmath", "azure", "pygments", "rich", "typer")
_BUNDLES = (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels"))


def tasks(scratch: Path) -> Iterator[Task]:
    """The one job. FileNotFoundError if Python bundles no older version of pip or setuptools."""
    package, installed, wheel, older = _bump()
    folder = scratch / "environment"
    old, new = folder / "old", folder / "new"
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        site = _site()
        for target in (old, new):
            for name in _PACKAGES:
                if (site / name).is_dir():
                    shutil.copytree(site / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
        shutil.copytree(site / package, new / package, ignore=shutil.ignore_patterns("__pycache__"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(old, [name for name in archive.namelist() if name.startswith(f"{package}/")])
        for entry in (*old.rglob("*"), *new.rglob("*")):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        (folder / ".complete").touch()
    about = f"installed packages ({', '.join(_PACKAGES)}) with {package} {older} → {installed}"
    yield Task(ENVIRONMENT, f"{package}-bumped", Job("environment", (old, new), 0), about)


def _bump() -> tuple[str, str, Path, str]:
    """(package, installed version, wheel with an older one, its version)."""
    for package in ("pip", "setuptools"):
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        for bundle in _BUNDLES:
            for wheel in sorted(bundle.glob(f"{package}-*.whl")):
                found = re.fullmatch(rf"{package}-([^-]+)-.*\.whl", wheel.name)
                if found and _numbers(found[1]) < _numbers(installed):
                    return package, installed, wheel, found[1]
    raise FileNotFoundError(
        "this Python bundles no older pip or setuptools than the installed one, of which an environment with a bumped "
        "package could be made: leave the scenario out with --only."
    )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _site() -> Path:
    return Path(str(importlib.metadata.distribution("sympy").locate_file("")))
