"""A version on disk: its manifest's requirements, its model file and its probe file. Nothing is loaded here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.model.closed import check_closed
from modelsync_inference.model.pointer import VersionRef
from modelsync_inference.runtimes.model_kinds import PICKLE_SUFFIXES, SCRIPT_NAME, kind_of
from modelsync_protocol import canonical, caps, names
from modelsync_protocol.errors import FormatError

_SUFFIX = ".onnx"
_OTHERS = (".tflite", ".xml", ".gguf")
_SPLIT_GGUF = re.compile(r"-([0-9]{5})-of-[0-9]{5}\.gguf$")
_PICKLE_PROTOCOLS = tuple(bytes((0x80, number)) for number in range(2, 6))


@dataclass(frozen=True, slots=True)
class Artifact:
    """Where a version's model file lies, the folder of all of its files, and its probe file if it has one."""

    model: Path
    folder: Path
    probe: Path | None


def open_artifact(folder: Path, ref: VersionRef) -> Artifact:
    """Find the parts of version `ref` below `folder` (models/NAME); ModelRefusedError says what is wrong."""
    try:
        paths, requires, probe = _read_manifest(folder / f"{ref.path}.manifest", ref.digest)
        model = _regular_file(folder / ref.path, _model_path(paths, requires))
        _refuse_disguised_pickle(model)
        check_closed(folder / ref.path, model)
        return Artifact(model, folder / ref.path, None if probe is None else _regular_file(folder / ref.path, probe))
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
    """What the publisher names; else a scoring script; else the only file of a suffix, or the one called model."""
    named = requires.get("model")
    if isinstance(named, str):
        return named
    if SCRIPT_NAME in paths:
        return SCRIPT_NAME
    for suffixes in ((_SUFFIX,), PICKLE_SUFFIXES, *((suffix,) for suffix in _OTHERS)):
        known = [path for path in paths if path.endswith(suffixes) and _is_whole(path, paths)]
        if len(known) == 1:
            return known[0]
        if known:
            chosen = [path for path in known if path in {f"model{suffix}" for suffix in suffixes}]
            if len(chosen) == 1:
                return chosen[0]
            raise ModelRefusedError(
                f"it holds {len(known)} {' or '.join(suffixes)} files; name one of them model{suffixes[0]} or set "
                "requires.model."
            )
    raise ModelRefusedError(
        f"it holds no {_SUFFIX} file, no {SCRIPT_NAME} and no pickle ({', '.join(PICKLE_SUFFIXES)}) to serve, and "
        "nothing for another runtime (.tflite, .gguf, or .xml with its .bin)."
    )


def _is_whole(path: str, paths: Sequence[str]) -> bool:
    """Whether a file is a model: an .xml has its weights beside it; of a split .gguf the first part stands for all."""
    if path.endswith(".xml"):
        return path.removesuffix(".xml") + ".bin" in paths
    part = _SPLIT_GGUF.search(path)
    return part is None or int(part[1]) == 1


def _regular_file(base: Path, relative: str) -> Path:
    path = base / names.check_relative_path(relative)
    if not path.is_file():
        raise ModelRefusedError(f"its file {relative!r:.80} is missing.")
    if not path.resolve().is_relative_to(base.resolve()):
        raise ModelRefusedError(f"its file {relative!r:.80} leads out of the version's folder.")
    return path


def _refuse_disguised_pickle(model: Path) -> None:
    if kind_of(model).is_code:
        return
    with model.open("rb") as file:
        if file.read(2) in _PICKLE_PROTOCOLS:
            raise ModelRefusedError(
                f"{model.name} is a pickle, which runs code when it is loaded, but is not called one; call it "
                f"{model.stem}{PICKLE_SUFFIXES[0]}, or export the model to ONNX."
            )
