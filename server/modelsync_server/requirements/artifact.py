"""From an artifact's files, which are in memory or mapped, to its requirements: each file's, joined. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.requirements import terms
from modelsync_protocol.requirements.releases import release_of
from modelsync_server.requirements import environment, onnx, pickles, plain, tflite

_SCRIPT, _LISTS = "score.py", ("requirements.txt",)
_MOST_DOMAINS = 8


def requirements_of(manifest: Manifest, stream: memoryview) -> dict[str, str]:
    """What the artifact requires, by key. With a probe a pickle may be any release's: the probe proves its answers.

    A Python environment (`modelsync environment`) requires what it says of itself, and meets what models beside it
    require of packages; UsageError if it does not.
    """
    found: dict[str, str] = {}
    around = environment.read(manifest, stream)
    script = any(PurePosixPath(file.path).name == _SCRIPT for file in manifest.files)
    offsets = manifest.file_offsets
    for file, begin, end in zip(manifest.files, offsets, offsets[1:], strict=False):
        if around is not None and around.owns(file.path):
            continue
        data = stream[begin:end]
        try:
            more = list(_file(file.path, data, proven=manifest.probe is not None, script=script))
        except FormatError:
            continue  # `publish` and `inspect` say what is damaged
        for key, value in more:
            if around is not None and around.meets(file.path, key, value):
                continue
            found[key] = value if key not in found else _joined(key, found[key], value)
    return _bounded(found if around is None else {**found, **around.requires})


def _file(path: str, data: memoryview, *, proven: bool, script: bool) -> Iterable[tuple[str, str]]:
    name = path.lower()
    if bytes(data[4:8]) == tflite.IDENTIFIER or name.endswith(".tflite"):
        return tflite.read(data)
    if name.endswith(".onnx"):
        return onnx.read(data)
    if name.endswith(pickles.SUFFIXES):
        return pickles.read(data, proven=proven)
    if bytes(data[:4]) == plain.GGUF:
        return plain.read_gguf(data)
    if name.endswith(".xml"):
        return plain.read_openvino(data)
    if script and PurePosixPath(name).name in _LISTS:
        return plain.read_list(data)
    return ()


def _joined(key: str, one: str, other: str) -> str:
    """Both files' requirement: the higher number, all names, or where two releases contradict each other, any."""
    if one == other or other == "*":
        return one
    if one == "*":
        return other
    if one.isdecimal() and other.isdecimal():
        return str(max(int(one), int(other)))
    if key == terms.TFLITE_RUNTIME:
        return max(one, other, key=lambda value: release_of(value.lstrip(">=")))
    if key in (terms.TFLITE_CUSTOM, terms.GGUF_ARCHITECTURE):
        return ",".join(sorted({*one.split(","), *other.split(",")}))
    if key.startswith(terms.PACKAGE):
        return "*" if one.startswith("==") and other.startswith("==") else f"{one},{other}"
    return other


def _bounded(found: Mapping[str, str]) -> dict[str, str]:
    """What can be spelled: the rest of a strange model's domains and names is left out, not what decides mostly."""
    kept: dict[str, str] = {}
    strange = 0
    for key, value in found.items():
        own = key.startswith(f"{terms.ONNX_OPSET}.") and key != terms.ONNX_ML
        strange += own
        try:
            terms.encode({**kept, key: value})
        except FormatError:
            continue
        if not own or strange <= _MOST_DOMAINS:
            kept[key] = value
    return kept
