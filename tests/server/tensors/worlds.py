"""Model files made up for tests: safetensors of any tensors, and sources cut from bytes. Not a test."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import codecs
from modelsync_protocol.chunker import chunk_sizes
from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_protocol.ops import Copy
from modelsync_server.encode.encoder import Encoded, Source

Tensors = Mapping[str, tuple[str, NDArray[Any]]]


def safetensors(tensors: Tensors) -> bytes:
    """A file of tensors (our dtype name, raw array), in the order given."""
    names = {"f32": "F32", "f16": "F16", "bf16": "BF16", "f64": "F64"}
    header: dict[str, Any] = {}
    body = bytearray()
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        shape = list(array.shape)
        header[name] = {"dtype": names.get(dtype, dtype.upper()), "shape": shape}
        header[name]["data_offsets"] = [len(body), len(body) + len(raw)]
        body += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def source(files: Mapping[str, bytes]) -> Source:
    """A source with these files."""
    entries, stream = [], bytearray()
    for path in sorted(files, key=str.encode):
        data = memoryview(files[path])
        sizes = chunk_sizes(path, data)
        digests, position = [], 0
        for size in sizes:
            digests.append(hashlib.sha256(data[position : position + size]).hexdigest())
            position += size
        entries.append(RegularFile(path, 0o644, sizes, tuple(digests)))
        stream += data
    return Source(Manifest(tuple(entries)), memoryview(bytes(stream)))


def carried_out(encoded: Encoded, base: Source | None) -> bytes:
    """What a device makes of it."""
    out = bytearray()
    payloads = iter(encoded.payloads)
    old = bytes(base.stream) if base is not None else b""
    for op in encoded.operations:
        if isinstance(op, Copy):
            out += (out if op.own else old)[op.offset : op.offset + op.length]
            continue
        payload = bytes(next(payloads))
        assert len(payload) == op.payload_length
        lean = old[op.base_offset : op.base_offset + op.base_length]
        prefix = bytes(out[len(out) - op.prefix :]) if op.prefix else b""
        out += codecs.decode(op.encoding, payload, op.length, lean, prefix, encoded.tables)
    return bytes(out)
