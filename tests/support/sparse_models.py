"""Large models that take no disk to speak of: safetensors files of float16 tensors, all holes but a share of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SHAPE = (4096, 1024)
_TENSOR_BYTES = SHAPE[0] * SHAPE[1] * 2


def sparse_model(path: Path, size: int, share: float) -> None:
    """Write about `size` bytes to `path`: zeros, but random weights in that share of the tensors, evenly spread."""
    count = max(1, size // _TENSOR_BYTES)
    header = {
        f"blocks.{number}.weight": {
            "dtype": "F16",
            "shape": list(SHAPE),
            "data_offsets": [number * _TENSOR_BYTES, (number + 1) * _TENSOR_BYTES],
        }
        for number in range(count)
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        begin = out.tell()
        out.truncate(begin + count * _TENSOR_BYTES)
        for number in range(0, count, round(1 / share)) if share else ():
            weights = np.random.default_rng(number).standard_normal(SHAPE, np.float32) * np.float32(0.02)
            out.seek(begin + number * _TENSOR_BYTES)
            out.write(weights.astype("<f2").tobytes())
