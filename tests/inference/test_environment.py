"""What an inference process says of itself: every package that an import would find, nothing where it can't tell."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_inference.handle import environment
from modelsync_protocol.requirements.capabilities import environment as read
from modelsync_protocol.requirements.judging import judge
from modelsync_protocol.requirements.releases import normalised


def test_it_names_every_installed_package_with_its_version() -> None:
    said = environment.describe(builtin=True)
    assert said["complete"] is True and said["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("onnxruntime", "numpy", "scikit-learn", "modelsync-inference"):
        assert said["packages"][name] == importlib.metadata.version(name), name
    missing = {normalised(each.metadata["Name"]) for each in importlib.metadata.distributions()} - set(said["packages"])
    assert not missing
    assert read(said) == {key: said[key] for key in ("python", "packages", "complete")} | {"arch": said["arch"]}


def test_nothing_is_imported_for_it() -> None:
    code = (
        "import sys; from modelsync_inference.handle.environment import describe; before = set(sys.modules); "
        "describe(builtin=True); "
        "print([m for m in set(sys.modules) - before if m.partition('.')[0] in ('onnxruntime', 'sklearn', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_runtime_without_metadata_is_there_in_a_version_that_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a vendor's image has it, or Debian: nothing is refused by what can't be read."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    (tmp_path / "Old_Name-1.2.egg-info").touch()
    (tmp_path / "debian_numpy-1.24.2-py3.11.egg-info").touch()
    (tmp_path / "editable.egg-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/nowhere"])
    monkeypatch.setenv("PATH", str(tmp_path))
    for module in environment._MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    packages = environment.describe(builtin=True)["packages"]
    assert packages == {"old-name": "1.2", "debian-numpy": "1.24.2", "editable": "", "onnxruntime": ""}
    monkeypatch.undo()
    judged = judge({"onnx.opset": "99", "package:old-name": ">=1"}, {"environments": [read({"packages": packages})]})
    assert not judged.missing and judged.untold == ("onnx.opset",)


def test_of_an_applications_own_runtime_nothing_is_known() -> None:
    said = environment.describe(builtin=False)
    assert "packages" not in said
    assert judge({"onnx.opset": "99"}, {"environments": [read(said)]}).untold == ("onnx.opset",)
