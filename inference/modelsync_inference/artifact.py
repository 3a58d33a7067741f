"""A version on disk: its manifest's requirements, its model file and its probe file. Nothing is loaded here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.pointer import VersionRef
from modelsync_protocol import canonical, caps, names
from modelsync_protocol.errors import FormatError

_SUFFIX = ".onnx"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")
_PICKLE_PROTOCOLS = tuple(bytes((0x80, number)) for number in range(2, 6))


@dataclass(frozen=True, slots=True)
class Artifact:
    """Where a version's model file lies, and its probe file if it has one."""

    model: Path
    probe: Path | None


def open_artifact(folder: Path, ref: VersionRef) -> Artifact:
    """Find the parts of version `ref` below `folder` (models/NAME); ModelRefusedError says what is wrong."""
    try:
        paths, requires, probe = _read_manifest(folder / f"{ref.path}.manifest", ref.digest)
        model = _regular_file(folder / ref.path, _model_path(paths, requires))
        _refuse_pickle(model)
        return Artifact(model, None if probe is None else _regular_file(folder / ref.path, probe))
    except FormatError as error:
        raise ModelRefusedError(str(error)) from error
    except OSError as error:
        raise ModelRefusedError(f"a file of the version can't be read: {error.strerror}.") from error


def _read_manifest(path: Path, digest: str) -> tuple[list[str], Mapping[str, object], str | None]:
    try:
        with path.open("rb") as file:
            data = file.read(caps.MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise ModelRefusedError(f"the manifest {path.name:.80} is missing.") from None
    if canonical.digest(data) != digest:
        raise ModelRefusedError("the manifest does not have the digest that the pointer names; it is damaged.")
    document = canonical.decode(data, what="the manifest", limit=caps.MAX_MANIFEST_BYTES)
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list):
        raise FormatError("the manifest lists no files.")
    paths = [item["path"] for item in files if isinstance(item, dict) and isinstance(item.get("path"), str)]
    requires, probe = document.get("requires") or {}, document.get("probe")
    if not isinstance(requires, dict):
        raise FormatError("the manifest's 'requires' is not an object.")
    if probe is not None and not (isinstance(probe, dict) and isinstance(probe.get("data"), str)):
        raise FormatError("the manifest's 'probe' does not name its file in 'data'.")
    return paths, requires, None if probe is None else probe["data"]


def _model_path(paths: Sequence[str], requires: Mapping[str, object]) -> str:
    known = [path for path in paths if path.endswith(_SUFFIX)]
    if len(known) == 1:
        return known[0]
    if "model.onnx" in known:
        return "model.onnx"
    named = requires.get("model")
    if isinstance(named, str):
        return named
    if known:
        raise ModelRefusedError(f"it holds {len(known)} {_SUFFIX} files; name one model.onnx or set requires.model.")
    if any(path.endswith(_PICKLE_SUFFIXES) for path in paths):
        raise ModelRefusedError(_PICKLE)
    raise ModelRefusedError("it holds no .onnx file; only ONNX models are served.")


def _regular_file(base: Path, relative: str) -> Path:
    path = base / names.check_relative_path(relative)
    if not path.is_file():
        raise ModelRefusedError(f"its file {relative!r:.80} is missing.")
    if not path.resolve().is_relative_to(base.resolve()):
        raise ModelRefusedError(f"its file {relative!r:.80} leads out of the version's folder.")
    return path


_PICKLE = "it is a pickle, which runs code when it is loaded, so it is not served; export the model to ONNX."


def _refuse_pickle(model: Path) -> None:
    with model.open("rb") as file:
        if model.suffix in _PICKLE_SUFFIXES or file.read(2) in _PICKLE_PROTOCOLS:
            raise ModelRefusedError(_PICKLE)
