"""Small inputs that would be dear: what makes a careless parser take hours or gigabytes. Pure, made on the fly."""

from __future__ import annotations

import importlib
import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from modelsync_protocol.codecs import segments, tables, zstd
from modelsync_protocol.codecs.numerals import F32, I16
from modelsync_protocol.codecs.segments import Coded, Head, Mode, Same
from modelsync_protocol.update import MAGIC
from modelsync_protocol.wire import write_varint
from tests.fuzz.targets import base_manifest, carve

MIB = 1 << 20


def shared_tflite_tensors() -> bytes:
    """Thousands of graphs that are all the same one, with thousands of tensors that are all the same one."""
    flatbuffers: Any = importlib.import_module("flatbuffers")
    builder = flatbuffers.Builder(MIB)

    def table(slots: dict[int, int], count: int) -> int:
        builder.StartObject(count)
        for slot, offset in slots.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return int(builder.EndObject())

    def vector(offset: int, count: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    data = builder.CreateByteVector(b"weights")
    name = builder.CreateString("n" * 1000)
    tensors = vector(table({3: name}, 4), 3_000)
    buffers, graphs = vector(table({0: data}, 3), 3_000), vector(table({0: tensors}, 1), 3_000)
    builder.Finish(table({2: graphs, 4: buffers}, 5), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _same_entry(name: str, content: bytes, times: int) -> bytes:
    """A zip file that lists one entry many times."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(name, content)
    whole = out.getvalue()
    start, size = whole.index(b"PK\x01\x02"), len(whole) - 22 - whole.index(b"PK\x01\x02")
    directory = whole[start : start + size] * times
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, times, times, len(directory), start, 0)
    return whole[:start] + directory + end


def listed_again_pickles() -> bytes:
    """One pickle of many opcodes, which the directory lists tens of thousands of times."""
    return _same_entry("m/data.pkl", b"\x80\x02" + b"N0" * 50_000 + b"N.", 5_000)


def listed_again_arrays() -> bytes:
    """One long NumPy header, which the directory lists tens of thousands of times."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 4_000 + b"), }"
    return _same_entry("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(4), 5_000)


def _field(number: int, content: bytes) -> bytes:
    out = bytearray()
    write_varint(out, number << 3 | 2)
    write_varint(out, len(content))
    return bytes(out) + content


def growing_onnx_names() -> bytes:
    """An attribute that is named again and again, with a tensor after each name."""
    attribute = (_field(1, b"name") + _field(5, _field(9, b"w"))) * 20_000
    return _field(7, _field(1, _field(5, attribute)))


def long_onnx_names() -> bytes:
    """A long name in front of very many tensors: each range that is found would hold a copy."""
    attribute = _field(1, b"n" * 1000) + _field(5, _field(9, b"w")) * 110_000
    return _field(7, _field(1, _field(5, attribute)))


def safetensors_of_lists() -> bytes:
    """A header of empty lists, each thirty times as large in memory."""
    header = b'{"a":[' + b"[]," * (8 * MIB) + b"[]]}"
    return struct.pack("<Q", len(header)) + header


def long_pickle_lines() -> bytes:
    """Text opcodes end at a line's end, which is far away."""
    return b"\x80\x02S'" + b"a" * (8 * MIB) + b"'\n."


def _update(skeleton: bytes) -> bytes:
    """An update whose skeleton claims to be these bytes."""
    packed = zstd.compress(skeleton, base_manifest().skeleton)
    header = bytearray()
    for number in (len(skeleton), len(packed)):
        write_varint(header, number)
    header += packed
    out = bytearray(MAGIC)
    for number in (len(header), len(header)):
        write_varint(out, number)
    return bytes(out + header)


def update_of_lists() -> bytes:
    """A skeleton of empty lists: kilobytes on the wire, megabytes as text, hundreds of megabytes as objects."""
    return _update(b'{"files":[' + b"[]," * (5 * MIB) + b'[]],"format":1,"probe":null,"requires":{}}')


def update_of_numbers() -> bytes:
    """A skeleton of numbers, each an object and a place in a list."""
    return _update(b'{"files":[' + b"999," * (4 * MIB - 20) + b'1],"format":1,"probe":null,"requires":{}}')


def _coded(segment: Coded, base: bytes) -> bytes:
    """A frame of one coded segment with words enough for most of its symbols."""
    payload = segments.write(Head((segment,), 0, 0))
    row = np.zeros(256, np.uint8)
    row[0] = len(tables.CODE_VALUES) - 1
    shared = tables.write([tables.Group((0,), row.reshape(1, 256))])
    return carve(segment.length, base, b"", shared, payload + bytes((0, 0, 1, 0)) + bytes(2))


def frame_of_wide_rows() -> bytes:
    """Rows of 2^36 elements, of which the frame holds the last of one and the first of the next."""
    rows = np.ones(2, np.uint8)
    segment = Coded(Mode.DELTA, F32, 0, 8, None, 1 << 36, (1 << 36) - 3, 0, rows=rows)
    return _coded(segment, b"")


def frame_of_few_lanes() -> bytes:
    """As many symbols as a frame can hold, all in one lane."""
    return _coded(Coded(Mode.DELTA, I16, 0, 2 * MIB, None, 1, 0, 0), b"")


def frame_of_many_segments() -> bytes:
    """As many segments as a frame may have, each of one byte."""
    payload = segments.write(Head(tuple(Same(1, i % 2) for i in range(segments.MAX_SEGMENTS)), 0, 0))
    return carve(segments.MAX_SEGMENTS, b"ab", b"", b"", payload)


Bomb = Callable[[], bytes]

LONG: Final[dict[str, tuple[str, Bomb]]] = {
    bomb.__name__: (target, bomb)
    for target, bomb in (
        ("read-tflite", shared_tflite_tensors),
        ("read-torch", listed_again_pickles),
        ("read-npz", listed_again_arrays),
        ("read-pickle", long_pickle_lines),
        ("decode-rans-delta", frame_of_wide_rows),
        ("decode-rans-delta", frame_of_few_lanes),
        ("decode-rans-delta", frame_of_many_segments),
    )
}
"""Name → (target, maker): what would take long."""

LARGE: Final[dict[str, tuple[str, Bomb]]] = {
    bomb.__name__: (target, bomb)
    for target, bomb in (
        ("read-onnx", growing_onnx_names),
        ("read-onnx", long_onnx_names),
        ("read-safetensors", safetensors_of_lists),
        ("update", update_of_lists),
        ("update", update_of_numbers),
    )
}
"""What would take memory."""
