"""Writes an ONNX file's large weights into a file of their own, which ONNX Runtime maps instead of copying.

The artifact's bytes are not changed: the copy lies in a cache of the inference process. A session of a mapped model is
made in milliseconds, because nothing is parsed and copied, and its weights are pages that the system may drop and
reload. Sources: onnx.proto (ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto), ONNX external data.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger(__name__)
_MODEL, _WEIGHTS, _SOURCE = "model.onnx", "weights.bin", "source"
_TEMPORARY = ".new-"
_MIN_TENSOR_BYTES = 64 * 1024
_MIN_TOTAL_BYTES = 1 << 20
_ALIGNMENT = 4096
_COPY_BYTES = 256 << 10
_BREATH_SECONDS = 0.0005
"""Between two pieces of a copy: the kernel copies a piece in one go, which holds up who wants the processor."""
_GRAPH, _INITIALIZER = 7, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION, _DATA_TYPE = 9, 13, 14, 2
_STRING_TYPE = 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: where it begins, where its content begins and ends (bytes of the file)."""

    number: int
    wire: int
    start: int
    content: int
    end: int


@dataclass(frozen=True, slots=True)
class _Weight:
    """A tensor's raw bytes in the model file, and where they go in the file of weights."""

    source: int
    size: int
    offset: int


class _Odd(Exception):
    """The file is not the protobuf that it should be; ONNX Runtime will say so better."""


def mapped(model: Path, cache: Path) -> Path | None:
    """The path of a copy of `model` with its weights outside, made now if `cache` has none.

    None: there is nothing to gain (few weights, or they are outside already), or it can't be done (a damaged file, no
    room); then `model` itself is to be loaded. May be repeated; several processes may do it at the same time.
    """
    try:
        status = model.stat()
        if status.st_size < _MIN_TOTAL_BYTES:
            return None
        identity = f"{model.absolute()}\n{status.st_size} {status.st_mtime_ns} {status.st_ino}\n"
        folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:32]
        if not (folder / _SOURCE).is_file():
            cache.mkdir(parents=True, exist_ok=True)
            _prune(cache)
            if not _write(model, folder, identity):
                return None
        return folder / _MODEL
    except _Odd as error:
        _LOG.debug("%s is loaded as it is: %s", model, error)
    except OSError as error:
        _LOG.warning("the weights of %s can't be laid out for mapping (%s); it is loaded as it is.", model, error)
    return None


def _write(model: Path, folder: Path, identity: str) -> bool:
    with model.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pieces, weights = _split(data)
        if sum(weight.size for weight in weights) < _MIN_TOTAL_BYTES:
            return False
        temporary = folder.parent / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
        temporary.mkdir(mode=0o755)
        try:
            with (temporary / _WEIGHTS).open("wb") as target:
                for weight in weights:
                    _copy(source.fileno(), weight, target.fileno())
                os.fsync(target.fileno())
            with (temporary / _MODEL).open("wb") as target:
                target.writelines(pieces)
                target.flush()
                os.fsync(target.fileno())
            (temporary / _SOURCE).write_text(identity)
            with contextlib.suppress(OSError):  # somebody else was faster
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


def _copy(source: int, weight: _Weight, target: int) -> None:
    # In the kernel: buffers of ours would stay with the allocator beside the model.
    os.lseek(target, weight.offset, os.SEEK_SET)
    done = 0
    while done < weight.size:
        count = os.sendfile(target, source, weight.source + done, min(_COPY_BYTES, weight.size - done))
        if count == 0:
            raise _Odd("it became shorter while it was read.")
        done += count
        time.sleep(_BREATH_SECONDS)


def _prune(cache: Path) -> None:
    """Remove what was made from files that are gone, and what a kill left half done."""
    for folder in cache.iterdir():
        if folder.name.startswith(_TEMPORARY):
            pid = folder.name.removeprefix(_TEMPORARY).partition("-")[0]
            gone = not pid.isdigit() or not Path(f"/proc/{pid}").exists()
        else:
            try:
                gone = not Path((folder / _SOURCE).read_text().partition("\n")[0]).exists()
            except OSError:
                gone = True
        if gone:
            # Mapped files are only unlinked, never truncated: a session that still has them keeps its pages.
            shutil.rmtree(folder, ignore_errors=True)


def _split(data: mmap.mmap) -> tuple[list[bytes], list[_Weight]]:
    """The model without its large weights, in pieces, and the weights."""
    weights: list[_Weight] = []
    pieces: list[bytes] = []
    for field in _fields(data, 0, len(data)):
        if field.number == _GRAPH and field.wire == _LENGTH:
            graph = _graph(data, field, weights)
            pieces += [_key(_GRAPH, _LENGTH), _varint(sum(map(len, graph))), *graph]
        else:
            pieces.append(data[field.start : field.end])
    return pieces, weights


def _graph(data: mmap.mmap, graph: _Field, weights: list[_Weight]) -> list[bytes]:
    pieces = []
    for field in _fields(data, graph.content, graph.end):
        tensor = None
        if field.number == _INITIALIZER and field.wire == _LENGTH and field.end - field.content >= _MIN_TENSOR_BYTES:
            tensor = _tensor(data, field, weights)
        if tensor is None:
            pieces.append(data[field.start : field.end])
        else:
            pieces += [_key(_INITIALIZER, _LENGTH), _varint(len(tensor)), tensor]
    return pieces


def _tensor(data: mmap.mmap, tensor: _Field, weights: list[_Weight]) -> bytes | None:
    """The tensor with its bytes named instead of held; None if it has to stay as it is."""
    fields = list(_fields(data, tensor.content, tensor.end))
    raw = [field for field in fields if field.number == _RAW_DATA and field.wire == _LENGTH]
    if len(raw) != 1 or raw[0].end - raw[0].content < _MIN_TENSOR_BYTES:
        return None
    if any(field.number in (_EXTERNAL_DATA, _DATA_LOCATION) for field in fields):
        return None
    if any(field.number == _DATA_TYPE and _read_varint(data, field.content)[0] == _STRING_TYPE for field in fields):
        return None
    last = weights[-1] if weights else _Weight(0, 0, 0)
    offset = -(-(last.offset + last.size) // _ALIGNMENT) * _ALIGNMENT
    weights.append(_Weight(raw[0].content, raw[0].end - raw[0].content, offset))
    kept = b"".join(data[field.start : field.end] for field in fields if field is not raw[0])
    named = {"location": _WEIGHTS, "offset": str(offset), "length": str(weights[-1].size)}
    entries = b"".join(_bytes(_EXTERNAL_DATA, _text(1, key) + _text(2, value)) for key, value in named.items())
    return kept + entries + _key(_DATA_LOCATION, _VARINT) + _varint(1)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        begin = position
        key, position = _read_varint(data, position)
        number, wire = key >> 3, key & 7
        content = position
        if wire == _VARINT:
            _, position = _read_varint(data, position)
        elif wire == _LENGTH:
            size, content = _read_varint(data, position)
            position = content + size
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise _Odd(f"it has a field of wire type {wire}.")
        if position > end or number == 0:
            raise _Odd("a field leads out of its message.")
        yield _Field(number, wire, begin, content, position)


def _read_varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _Odd("it ends within a number.")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Odd("it has a number of more than ten bytes.")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _bytes(number: int, content: bytes) -> bytes:
    return _key(number, _LENGTH) + _varint(len(content)) + content


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())
