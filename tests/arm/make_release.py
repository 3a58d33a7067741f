"""Publishes two versions of a model with this machine's publisher, for 32-bit Arm to install and update; run by `run`.

`make_release.py FOLDER` leaves there a store and each version's bytes. Golden vectors are small and never change; this
has frames of real size from today's encoder, which decoders with a narrower word must still index rightly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHAPES = {"F32": (600, 1024), "F16": (600, 768), "BF16": (500, 512), "F64": (400, 1000), "I8": (900, 640)}
MANTISSA = {"F32": 23, "F16": 10, "BF16": 7, "F64": 52}
CHANGED = {"F32": 0.9, "F16": 0.9, "BF16": 0.9, "F64": 0.01, "I8": 0.05}
"""Fractions: what changes little makes the longest frames."""

BITS = {"F32": "<u4", "F16": "<u2", "BF16": "<u2", "F64": "<u8", "I8": "|u1"}


def weights(kind: str, source: np.random.Generator) -> NDArray[np.generic]:
    """Bits of trained-looking weights; one float in a hundred is subnormal (golden vectors have all other specials)."""
    normal = source.normal(0, 0.05, SHAPES[kind])
    if kind == "I8":
        return np.clip(normal * 600, -127, 127).astype(np.int8).view(BITS[kind])
    if kind == "BF16":
        bits = (normal.astype("<f4").view("<u4") >> np.uint32(16)).astype("<u2")
    else:
        bits = normal.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[kind]).view(BITS[kind])
    sign_and_mantissa = (1 << MANTISSA[kind]) - 1 | 1 << (8 * bits.itemsize - 1)
    return np.where(source.random(bits.shape) < 0.01, bits & bits.dtype.type(sign_and_mantissa), bits)


def tuned(kind: str, old: NDArray[np.generic], source: np.random.Generator) -> NDArray[np.generic]:
    """Bits after some training: the changed ones move by a few units in the last place."""
    step = source.integers(-40, 41, old.shape) * (source.random(old.shape) < CHANGED[kind])
    return old + step.astype(old.dtype.str.replace("u", "i")).view(old.dtype)


def safetensors(tensors: dict[str, NDArray[np.generic]]) -> bytes:
    """The file format's bytes (its header is a JSON document with its length before it)."""
    header: dict[str, object] = {}
    position = 0
    for kind, bits in tensors.items():
        header[f"layer.{kind}"] = {
            "dtype": kind,
            "shape": list(bits.shape),
            "data_offsets": [position, position + bits.nbytes],
        }
        position += bits.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(bits.tobytes() for bits in tensors.values())


def publish(folder: Path) -> None:
    """Make store and model files in `folder`, an empty directory, by the publisher's own commands."""
    source = np.random.default_rng(32)
    old = {kind: weights(kind, source) for kind in SHAPES}
    new = {kind: tuned(kind, bits, source) for kind, bits in old.items()}
    command = Path(sys.executable).with_name("modelsync")
    store, keys = folder / "store", folder / "keys"
    subprocess.run([command, "init", store, "--keys", keys], check=True, stdout=subprocess.DEVNULL)
    versions = []
    for version, tensors in enumerate((old, new), 1):
        model = folder / f"{version}.safetensors"
        model.write_bytes(safetensors(tensors))
        done = subprocess.run(
            [command, "publish", store, "weights", model, "--keys", keys, "--json"], check=True, stdout=subprocess.PIPE
        )
        versions.append(json.loads(done.stdout))
    (folder / "versions.json").write_text(json.dumps(versions), encoding="utf-8")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
