"""Where the tensors lie inside model files: typed byte ranges only, nothing is executed, no I/O here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from modelsync_protocol import caps
from modelsync_protocol.containers import (
    coreml,
    gguf,
    hdf5,
    numpy_files,
    onnx,
    pickles,
    raw_arrays,
    safetensors,
    split_models,
    tflite,
    torch_files,
    zip_entries,
)
from modelsync_protocol.containers.ranges import ExternalTensor, TensorRange
from modelsync_protocol.errors import FormatError

_Reader = Callable[[memoryview], Iterable[TensorRange]]
_ZIP, _GZIP, _DEFLATE_WINDOW = b"PK\x03", b"\x1f\x8b\x08", b"\x78"


def _binary(data: memoryview) -> Iterator[TensorRange]:
    """What `.bin` may be: a PyTorch archive, or a Core ML package's weights."""
    return torch_files.tensors(data) if bytes(data[:2]) == _ZIP[:2] else coreml.tensors(data)


_READERS: dict[str, _Reader] = {
    ".onnx": onnx.tensors,
    ".safetensors": safetensors.tensors,
    ".tflite": tflite.tensors,
    ".npy": numpy_files.array,
    ".npz": numpy_files.arrays,
    ".pt": torch_files.tensors,
    ".pth": torch_files.tensors,
    ".ptl": torch_files.tensors,
    ".jit": torch_files.tensors,
    ".pt2": torch_files.exported,
    ".bin": _binary,
    ".pkl": pickles.tensors,
    ".pickle": pickles.tensors,
    ".joblib": pickles.tensors,
    ".h5": hdf5.tensors,
    ".hdf5": hdf5.tensors,
    ".gguf": gguf.tensors,
}

Sibling = Callable[[str], memoryview | None]


def _alone(name: str) -> memoryview | None:
    return None


_ARCHIVES = frozenset({".keras", ".zip"})
"""Zip files of model files, whose stored entries are read by their own suffixes."""

_NAMING_OTHERS = (".onnx", ".xml", ".param")
_BESIDE = "data.pkl"
"""Suffixes of files that say what lies in others, and the name of one that says it of those beside it."""

_CUT_BY_CONTENT = frozenset({".pkl", ".pickle", ".joblib"})
"""Here arrays come and go between refits: chunks follow the content, not the arrays."""


def tensors(path: str, data: memoryview) -> list[TensorRange]:
    """Return the tensors of a model file, ascending by offset and disjoint, none of them empty.

    A file whose suffix names no known container, that does not parse, or that has more than caps.MAX_TENSORS tensors
    is opaque: the answer is empty.
    Overlapping or shared ranges are given once.
    """
    try:
        found = list(islice(_read(path, data), caps.MAX_TENSORS + 1))
    except FormatError:
        return []
    if len(found) > caps.MAX_TENSORS:
        return []
    found.sort(key=lambda tensor: (tensor.offset, tensor.length))
    result: list[TensorRange] = []
    end = 0
    for tensor in found:
        if tensor.offset >= end and tensor.length > 0 and tensor.offset + tensor.length <= len(data):
            result.append(tensor)
            end = tensor.offset + tensor.length
    return result


def _read(path: str, data: memoryview) -> Iterable[TensorRange]:
    suffix = _suffix(path)
    if suffix in _ARCHIVES:
        return _inside(data)
    reader = _READERS.get(suffix)
    return raw_arrays.array(path, data) if reader is None else reader(data)


def _inside(data: memoryview) -> Iterator[TensorRange]:
    """Tensors of the model files that lie stored in a zip file."""
    for entry in zip_entries.entries(data):
        if _suffix(entry.name) not in _ARCHIVES:
            for tensor in tensors(entry.name, data[entry.offset : entry.offset + entry.length]):
                name = f"{entry.name}:{tensor.name}"
                yield replace(tensor, name=name, offset=entry.offset + tensor.offset)


def cut_ranges(path: str, data: memoryview) -> list[tuple[int, int]]:
    """The (offset, length) in bytes of what chunks are cut by, ascending and disjoint: all `tensors` but those of
    pickles, and what is compressed: one changed weight changes all that follows it there."""
    head = bytes(data[:3])
    by_content = _suffix(path) in _CUT_BY_CONTENT
    zlibbed = head[:1] == _DEFLATE_WINDOW and int.from_bytes(head[:2]) % 31 == 0
    if head == _GZIP or (by_content and zlibbed):
        return [(0, len(data))]
    if by_content:
        return []
    found = [(tensor.offset, tensor.length) for tensor in tensors(path, data)]
    if head == _ZIP:
        with suppress(FormatError):
            entries = islice(zip_entries.all_entries(data), caps.MAX_TENSORS)
            found += [(entry.offset, entry.length) for entry in entries if entry.method == zip_entries.DEFLATED]
    result: list[tuple[int, int]] = []
    for offset, length in sorted(found):
        if not result or offset >= sum(result[-1]):
            result.append((offset, length))
    return result


def external_tensors(path: str, data: memoryview, sibling: Sibling = _alone) -> list[ExternalTensor]:
    """Tensors that a model file keeps in other files; empty for what is no ONNX, OpenVINO or NCNN model.

    `sibling` gives the bytes of a file in the same folder by its name, None if there is none: NCNN says there what
    its elements are.
    """
    try:
        found = list(islice(_external(path, data, sibling), caps.MAX_TENSORS + 1))
    except FormatError:
        return []
    return found if len(found) <= caps.MAX_TENSORS else []


def nibbles(path: str, data: memoryview) -> frozenset[str]:
    """Names of a model file's tensors of bytes that hold two quants of 4 bits each, though they are typed u8."""
    if not path.lower().endswith(".onnx"):
        return frozenset()
    with suppress(FormatError):
        return frozenset(islice(onnx.nibbles(data), caps.MAX_TENSORS))
    return frozenset()


def _external(path: str, data: memoryview, sibling: Sibling) -> Iterable[ExternalTensor]:
    match _suffix(path):
        case ".onnx":
            return onnx.external_tensors(data)
        case ".xml":
            return split_models.openvino(path, data)
        case ".param":
            return split_models.ncnn(path, data, sibling)
    return ()


def names_others(path: str) -> bool:
    """Whether `external_tensors` or `beside` may say of a file at `path` what lies in others."""
    return path.endswith(_BESIDE) or path.lower().endswith(_NAMING_OTHERS)


def beside(path: str, data: memoryview) -> list[ExternalTensor]:
    """Tensors that fill whole files beside this one: those of an unpacked PyTorch archive by its `data.pkl`."""
    if path.rpartition("/")[2] != _BESIDE:
        return []
    found = islice(torch_files.described(data), caps.MAX_TENSORS)
    return [ExternalTensor(tensor.name, name, 0, None, tensor.dtype, tensor.shape) for name, tensor in found]


def _suffix(path: str) -> str:
    return path[path.rfind(".") :].lower() if "." in path else ""
