"""Models of two files, of which one says what is in the other: OpenVINO (.xml, .bin), NCNN (.param, .bin). No I/O here.

OpenVINO's IR: https://docs.openvino.ai (layers of type Const). NCNN: the order in which its layers load weights,
src/layer/*.cpp of https://github.com/Tencent/ncnn; a layer that is not known here ends what can be told.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from modelsync_protocol.containers.ranges import ExternalTensor
from modelsync_protocol.errors import FormatError

_CONSTANT = re.compile(rb"<layer\s([^<>]{0,4096})>\s{0,64}<data\s([^<>]{0,4096})>")
_ATTRIBUTE = re.compile(rb'([\w.-]{1,64})="([^"]{0,1024})"')
_DTYPES = {"f32", "f16", "bf16", "f64", "i8", "u8", "i16", "i32", "i64"}
_SAME = {"boolean": "u8", "u16": "i16", "u32": "i32", "u64": "i64"}
_MAX_RANK = 32

_NCNN_MAGIC = b"7767517"
_MAX_PARAM_BYTES = 16 * 1024 * 1024
_FLAGS = {0x01306B47: ("f16", 2), 0x000D4B38: ("i8", 1), 0x0002C056: ("f32", 4), 0: ("f32", 4)}
"""The word before a layer's weights: element type and width; they are padded to 4 bytes."""

_STREAMS = ("LSTM", "GRU", "RNN", "MultiHeadAttention", "Gemm", "Spectrogram", "InverseSpectrogram")
"""Layers whose weights are not laid out here."""


_CONVOLUTIONS = frozenset(
    f"{kind}{depth}{rank}"
    for kind in ("Convolution", "Deconvolution")
    for depth in ("", "DepthWise")
    for rank in ("", "1D")
)


def openvino(path: str, data: memoryview) -> Iterator[ExternalTensor]:
    """Yield the constants of an OpenVINO model; they lie in the file beside it that ends in `.bin`.

    The XML is searched, not parsed: entities and nesting cost nothing.
    """
    beside = f"{path.rpartition('/')[2][: -len('.xml')]}.bin"
    for match in _CONSTANT.finditer(data):
        layer, about = (_attributes(part) for part in match.groups())
        kind = about.get("element_type", "")
        offset, size = (_number(about.get(key, "")) for key in ("offset", "size"))
        if layer.get("type") == "Const" and offset is not None and size is not None:
            axes = [_number(axis.strip()) for axis in about.get("shape", "").split(",")[:_MAX_RANK]]
            shape = tuple(axis for axis in axes if axis is not None)
            dtype = kind if kind in _DTYPES else _SAME.get(kind)
            yield ExternalTensor(layer.get("name", ""), beside, offset, size, dtype, shape)


def _attributes(text: bytes) -> dict[str, str]:
    return {key.decode(): value.decode(errors="replace") for key, value in _ATTRIBUTE.findall(text)}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def ncnn(path: str, data: memoryview, sibling: Callable[[str], memoryview | None]) -> Iterator[ExternalTensor]:
    """Yield the weights of an NCNN model in order; `sibling` gives the bytes of the file beside it of that name.

    Raises FormatError if `data` is no NCNN parameter file.
    """
    lines = bytes(data[:_MAX_PARAM_BYTES]).splitlines()
    if len(lines) < 2 or lines[0].strip() != _NCNN_MAGIC:
        raise FormatError("the file is no NCNN parameter file.")
    beside = f"{path.rpartition('/')[2][: -len('.param')]}.bin"
    weights = sibling(beside)
    if weights is None:
        return
    position = 0
    for line in lines[2:]:
        words = line.decode(errors="replace").split()
        if len(words) < 4:
            continue
        if words[0] in _STREAMS:
            return
        for name, count, flagged in _loads(words[0], _parameters(words)):
            dtype, width = "f32", 4
            if flagged:
                if position + 4 > len(weights):
                    return
                (flag,) = struct.unpack_from("<I", weights, position)
                if flag not in _FLAGS:
                    return
                dtype, width = _FLAGS[flag]
                position += 4
            length = count * width
            if count <= 0 or position + length > len(weights):
                return
            yield ExternalTensor(f"{words[1]}.{name}", beside, position, length, dtype, (count,))
            position += -(-length // 4) * 4


def _parameters(words: list[str]) -> dict[int, int]:
    """The whole numbers among `key=value`; lists and fractions are left out."""
    found: dict[int, int] = {}
    for word in words[4:]:
        key, sign, value = word.partition("=")
        if sign and (number := _number(value)) is not None and (place := _number(key)) is not None:
            found[place] = number
    return found


def _loads(kind: str, given: dict[int, int]) -> Iterator[tuple[str, int, bool]]:
    """(name, elements, whether a flag stands before them) of what a layer loads, in order."""
    if kind in _CONVOLUTIONS:
        yield from _weighted(given, weights=6, bias=5)
    elif kind == "InnerProduct":
        yield from _weighted(given, weights=2, bias=1)
    elif kind == "Embed":
        yield from _weighted(given, weights=3, bias=2)
    elif kind == "BatchNorm":
        yield from ((name, given.get(0, 0), False) for name in ("slope", "mean", "variance", "bias"))
    elif kind == "Scale" and given.get(0, 0):
        yield "scale", given[0], False
        if given.get(1, 0):
            yield "bias", given[0], False
    elif kind == "PReLU":
        yield "slope", given.get(0, 0), False
    elif kind == "Bias":
        yield "bias", given.get(0, 0), False
    elif kind in ("LayerNorm", "InstanceNorm") and given.get(2, 1):
        yield from (("gamma", given.get(0, 0), False), ("beta", given.get(0, 0), False))
    elif kind == "GroupNorm" and given.get(3, 1):
        yield from (("gamma", given.get(1, 0), False), ("beta", given.get(1, 0), False))
    elif kind == "MemoryData":
        sizes = [max(1, given.get(key, 0)) for key in (0, 1, 11, 2)]
        yield "data", sizes[0] * sizes[1] * sizes[2] * sizes[3], given.get(21, 1) == 0


def _weighted(given: dict[int, int], weights: int, bias: int) -> Iterator[tuple[str, int, bool]]:
    if given.get(19, 0) and weights == 6:  # its weights come from another layer
        return
    yield "weight", given.get(weights, 0), True
    if given.get(bias, 0):
        yield "bias", given.get(0, 0), False
    if given.get(8, 0):
        yield "scales", given.get(0, 0) if weights != 6 or given.get(7, 1) == 1 else given[7], False
        if weights == 6 or weights == 2:
            yield "input scale", 1, False
        if given[8] > 100:
            yield "output scale", 1, False
