"""Writes pairs whose target holds tensors twice, or the base's elsewhere: `python -m bench.repeats OUT [--seed N]`.

Networks of seeded normal weights, moved a little, as exports and re-exports hold them.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.generic]]
_LAYERS = ((48, 96), (96, 128), (128, 128), (128, 64), (64, 10))
_CODES = {"float32": "F32", "float16": "F16"}


def main() -> None:
    """Write OUT/<case>/{old,new}.*."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for case, (suffix, old, new) in pairs(arguments.seed).items():
        folder = arguments.out / case
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"old.{suffix}").write_bytes(old)
        (folder / f"new.{suffix}").write_bytes(new)


def pairs(seed: int) -> dict[str, tuple[str, bytes, bytes]]:
    """Case → (suffix, old file, new file)."""
    rng = np.random.default_rng(seed)
    old = {f"layer{n}.weight": rng.normal(0, 0.05, shape).astype(np.float32) for n, shape in enumerate(_LAYERS)}
    new = {name: (w + rng.normal(0, 5e-4, w.shape)).astype(np.float32) for name, w in old.items()}
    twice = {**new, **{f"copy.{name}": w for name, w in new.items()}}
    by_turns = {key: w for name, w in new.items() for key, w in ((name, w), (f"{name}.average", w))}
    blob = rng.integers(0, 256, 90_001, np.uint8).tobytes()
    fused = {"blocks": np.concatenate([w.ravel() for w in reversed(list(old.values()))]), "head": new["layer4.weight"]}
    half = {name: w.astype(np.float16) for name, w in old.items()}
    return {
        # a checkpoint that keeps its averaged weights beside the live ones, equal at export
        "twice_safetensors": ("safetensors", safetensors(old), safetensors(twice)),
        # the same, each tensor right behind its equal, as an ONNX re-export lists them
        "by_turns": ("safetensors", safetensors(old), safetensors(by_turns)),
        # the same file format on both sides holds everything twice
        "twice_both": (
            "safetensors",
            safetensors({**old, **{f"copy.{name}": w for name, w in old.items()}}),
            safetensors(twice),
        ),
        # trained anew: no old weight helps, only the second of each pair of equals
        "twice_retrained": (
            "safetensors",
            safetensors({name: rng.normal(0, 0.05, w.shape).astype(np.float32) for name, w in old.items()}),
            safetensors(twice),
        ),
        # a re-export without a container: floats at no alignment, each tensor twice
        "twice_unaligned": ("weights", unaligned(old.values(), 1), unaligned([*new.values(), *new.values()], 3)),
        # the base's tensors in other names, shapes, order and offsets
        "fused_from_base": ("safetensors", safetensors(old), safetensors(fused)),
        # float16 weights that a second graph of the same file shares
        "twice_f16": (
            "safetensors",
            safetensors(half),
            safetensors(
                {
                    **half,
                    **{f"copy.{name}": (w * np.float16(1.01)) for name, w in half.items()}
                    | {f"tied.{name}": (w * np.float16(1.01)) for name, w in half.items()},
                }
            ),
        ),
        # what no coder shortens, twice in one file, away from all edges
        "blob_twice": ("bin.dat", blob[:50_000], b"head" + blob + b"between the two" + blob),
    }


def safetensors(tensors: Tensors) -> bytes:
    """A safetensors file of them, in order."""
    header: dict[str, object] = {}
    place = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _CODES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values())


def unaligned(tensors: Iterable[NDArray[np.generic]], shift: int) -> bytes:
    """Records of a length, a name and floats, one behind the other, with `shift` more bytes in each."""
    out = bytearray()
    for number, array in enumerate(tensors):
        out += struct.pack("<IH", array.nbytes, number) + bytes(range(shift)) + array.tobytes()
    return bytes(out)


if __name__ == "__main__":
    main()
