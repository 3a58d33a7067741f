"""`pip install ./daemon` in a clone installs every module: what git ignores is not what a wheel leaves out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.rooms import DEPLOYABLES, ROOT, package


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_a_wheel_made_in_a_clone_has_every_file_of_its_package(tmp_path: Path, deployable: str) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)  # hatch looks for it in the folders above
    (tmp_path / ".git").mkdir()
    source = tmp_path / deployable
    shutil.copytree(ROOT / deployable, source, ignore=shutil.ignore_patterns("__pycache__"))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    subprocess.run([sys.executable, "-m", "pip", "wheel", *quiet, "-w", tmp_path / "out", source], check=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as made:
        packed = {name for name in made.namelist() if ".dist-info/" not in name}
    files = [path for path in package(deployable).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {str(path.relative_to(ROOT / deployable)) for path in files}
