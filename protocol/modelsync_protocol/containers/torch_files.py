"""Tensors of PyTorch and TorchScript zip files, found without executing their pickles. No I/O here.

Each storage is a stored entry `<archive>/data/<key>` (TorchScript also: constants/<key>); `data.pkl` says by
persistent ids which type it has, and by `_rebuild_tensor_v2` what shape its tensors have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from modelsync_protocol import caps
from modelsync_protocol.containers.pickle_walk import Made, Name, Walk
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.containers.zip_entries import entries
from modelsync_protocol.errors import FormatError

_STORAGES = {
    "FloatStorage": "f32",
    "HalfStorage": "f16",
    "BFloat16Storage": "bf16",
    "DoubleStorage": "f64",
    "CharStorage": "i8",
    "QInt8Storage": "i8",
    "ByteStorage": "u8",
    "BoolStorage": "u8",
    "QUInt8Storage": "u8",
    "UntypedStorage": None,
    "ShortStorage": "i16",
    "IntStorage": "i32",
    "QInt32Storage": "i32",
    "LongStorage": "i64",
}
_MAX_RANK = 32
_MAX_CONFIG_BYTES = 16 * caps.MIB
_SCALARS = {1: "u8", 2: "i8", 3: "i16", 4: "i32", 5: "i64", 6: "f16", 7: "f32", 8: "f64", 12: "u8", 13: "bf16"}
"""ScalarType of an exported program's schema."""


@dataclass(slots=True)
class _Storage:
    dtype: str | None
    shape: tuple[int, ...] = ()
    name: str = ""


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield every storage; raise FormatError if `data` is no zip file."""
    found = list(entries(data))
    known: dict[str, _Storage] = {}
    for entry in found:
        folder, _, name = entry.name.rpartition("/")
        if name in ("data.pkl", "constants.pkl"):
            inner = folder + ("/data/" if name == "data.pkl" else "/constants/")
            content = data[entry.offset : entry.offset + entry.length]
            known |= {inner + key: storage for key, storage in _storages(content).items()}
    for entry in found:
        storage = known.get(entry.name)
        if storage is not None:
            name = storage.name or entry.name.partition("/")[2]
            yield TensorRange(name, entry.offset, entry.length, storage.dtype, storage.shape)


def exported(data: memoryview) -> Iterator[TensorRange]:
    """Yield the tensors of an exported program (`.pt2`); raise FormatError if `data` is no zip file.

    Until PyTorch 2.6 its state is an archive of its own inside; since then each tensor is an entry, and a JSON
    document says what they are (torch/_export/serde/schema.py).
    """
    found = list(entries(data))
    by_name = {entry.name: data[entry.offset : entry.offset + entry.length] for entry in found}
    places = {entry.name: entry.offset for entry in found}
    for name, content in by_name.items():
        folder, _, last = name.rpartition("/")
        if last.endswith(".pt"):
            with suppress(FormatError):
                for tensor in tensors(content):
                    yield replace(tensor, name=f"{last}:{tensor.name}", offset=places[name] + tensor.offset)
        elif last.endswith("_config.json") and len(content) <= _MAX_CONFIG_BYTES:
            for entry, key, dtype, shape in _configured(bytes(content)):
                inside = f"{folder}/{entry}"
                if inside in by_name:
                    yield TensorRange(key, places[inside], len(by_name[inside]), dtype, shape)


def _configured(document: bytes) -> Iterator[tuple[str, str, str | None, tuple[int, ...]]]:
    """(entry, tensor's name, element type, shape) of a weights' or constants' configuration; none if it is odd."""
    try:
        listed = json.loads(document)["config"]
        for key, item in listed.items():
            about = item["tensor_meta"]
            shape = tuple(int(size["as_int"]) for size in about["sizes"][:_MAX_RANK])
            yield str(item["path_name"]), key, _SCALARS.get(about["dtype"]), shape
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def described(pickle: memoryview) -> Iterator[tuple[str, TensorRange]]:
    """Yield what the `data.pkl` of an archive that is unpacked says: the path beside it, and the tensor that fills it.

    The length is unknown here, and given as 0.
    """
    for key, storage in _storages(pickle).items():
        yield f"data/{key}", TensorRange(storage.name or f"data/{key}", 0, 0, storage.dtype, storage.shape)


def _storages(pickle: memoryview) -> dict[str, _Storage]:
    """Key → what the pickle says of that storage; what was seen before a malformed part counts."""
    storages: dict[str, _Storage] = {}
    tensors: dict[int, str] = {}
    kept: list[Made] = []

    def on_call(made: Made) -> None:
        if not (isinstance(made.maker, Name) and made.maker.name.startswith("_rebuild_")):
            return
        storage = _persistent(made.arguments[0]) if made.arguments else None
        if storage is None:
            inner = made.arguments[0] if made.arguments else None
            if isinstance(inner, Made) and id(inner) in tensors:  # a parameter around a tensor
                tensors[id(made)] = tensors[id(inner)]
                kept.append(made)
            return
        key, dtype = storage
        shape = made.arguments[2] if len(made.arguments) > 2 else ()
        known = storages.setdefault(key, _Storage(dtype))
        if not known.shape and isinstance(shape, tuple) and len(shape) <= _MAX_RANK:
            known.shape = tuple(n for n in shape if type(n) is int and 0 <= n < 1 << 48)
        tensors[id(made)] = key
        kept.append(made)

    def on_item(key: Any, value: Any) -> None:
        if isinstance(key, str) and isinstance(value, Made) and id(value) in tensors:
            storage = storages[tensors[id(value)]]
            storage.name = storage.name or key

    walk = Walk(pickle, on_item=on_item, on_call=on_call)
    try:
        walk.run()
    except FormatError:
        return storages
    return storages


def _persistent(value: Any) -> tuple[str, str | None] | None:
    """(key, element type) of a persistent id ("storage", type, key, device, size)."""
    match value:
        case Made(maker="persistent", arguments=(("storage", Name() as kind, str(key), *_),)):
            return key, _STORAGES.get(kind.name)
    return None
