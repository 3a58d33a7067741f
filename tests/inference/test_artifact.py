"""Which file of an artifact is the model, and which artifacts are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from modelsync_inference import ModelRefusedError
from modelsync_inference.model.artifact import open_artifact
from modelsync_inference.model.pointer import VersionRef
from tests.support.datadir import DataDir, Installed


def ref(installed: Installed) -> VersionRef:
    return VersionRef(installed.version, installed.digest, installed.path)


@pytest.mark.parametrize(
    ("paths", "requires", "expected"),
    [
        (["anomaly.onnx"], {}, "anomaly.onnx"),
        (["labels.txt", "net/digits.onnx"], {}, "net/digits.onnx"),
        (["a.onnx", "model.onnx"], {}, "model.onnx"),
        (["a.onnx", "b.onnx"], {"model": "b.onnx"}, "b.onnx"),
        (["weights.bin"], {"model": "weights.bin"}, "weights.bin"),
        (["a.onnx", "b.txt"], {"model": "b.txt"}, "b.txt"),
        (["model.onnx", "model.pkl"], {}, "model.onnx"),
        (["readme.txt", "a.joblib"], {}, "a.joblib"),
        (["a.pkl", "model.pkl"], {}, "model.pkl"),
        (["features.py", "model.onnx", "score.py"], {}, "score.py"),
        (["model.onnx", "score.py"], {"model": "model.onnx"}, "model.onnx"),
    ],
)
def test_the_model_file_is_found(tmp_path: Path, paths: list[str], requires: dict[str, str], expected: str) -> None:
    data = DataDir(tmp_path)
    installed = data.install(1, dict.fromkeys(paths, b"\x08\n"), requires=requires)
    artifact = open_artifact(data.folder, ref(installed))
    assert artifact.model == data.folder / installed.path / expected
    assert artifact.probe is None


@pytest.mark.parametrize(
    ("files", "requires", "reason"),
    [
        ({"a.onnx": b"x", "b.onnx": b"x"}, {}, "2 .onnx files"),
        ({"a.pkl": b"x", "b.pickle": b"x"}, {}, "2 .pkl or .pickle or .joblib files"),
        ({"labels.txt": b"x"}, {}, "no .onnx file, no score.py and no pickle"),
        ({"a.onnx": pickle.dumps(1)}, {}, "runs code when it is loaded, but is not called one"),
        ({"a.txt": b"x"}, {"model": "gone.onnx"}, "missing"),
        ({"a.txt": b"x"}, {"model": "../../x"}, "relative path"),
        ({"a.txt": b"x"}, {"model": "/etc/hostname"}, "relative path"),
    ],
)
def test_what_can_not_serve_is_refused_and_says_why(
    tmp_path: Path, files: dict[str, bytes], requires: dict[str, str], reason: str
) -> None:
    data = DataDir(tmp_path)
    installed = data.install(1, files, requires=requires)
    with pytest.raises(ModelRefusedError, match=reason):
        open_artifact(data.folder, ref(installed))


def test_a_link_out_of_the_version_is_refused(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    installed = data.install(1, {"model.onnx": b"x"})
    model = data.folder / installed.path / "model.onnx"
    model.unlink()
    (tmp_path / "outside").write_bytes(b"x")
    model.symlink_to(tmp_path / "outside")
    with pytest.raises(ModelRefusedError, match="leads out"):
        open_artifact(data.folder, ref(installed))


def test_a_damaged_or_missing_manifest_is_refused(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    installed = data.install(1, {"model.onnx": b"x"})
    manifest = data.folder / f"{installed.path}.manifest"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(ModelRefusedError, match="damaged"):
        open_artifact(data.folder, ref(installed))
    manifest.unlink()
    with pytest.raises(ModelRefusedError, match="missing"):
        open_artifact(data.folder, ref(installed))
