"""Tensors of PyTorch and TorchScript zip files, found without executing their pickles. No I/O here.

Each storage is a stored entry `<archive>/data/<key>` (TorchScript also: constants/<key>); `data.pkl` says by
persistent ids which type it has, and by `_rebuild_tensor_v2` what shape its tensors have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
