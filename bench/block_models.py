"""Writes pairs of models in quantised blocks, fine-tuned or not: `python -m bench.block_models OUT [--seed N]`.

Seeded weights whose rows differ in size, quantised by ggml's rules for q4_0 … q8_0 and by each sub-block's range for
q2_K … q6_K. `bench.patches OUT` measures them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.block_pairs import KINDS, in_blocks, weights
from tests.support.gguf_files import gguf

_SHAPES = ((512, 1024), (192, 2048))
_MOVES = ("tuned", "further", "rows", "sparse", "scratch")


def main() -> None:
    """Write OUT/<case>/{old,new}.gguf."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for case, old, new in pairs(arguments.seed):
        folder = arguments.out / f"{case}_{arguments.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "old.gguf").write_bytes(old)
        (folder / "new.gguf").write_bytes(new)


def pairs(seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    """(case, old file, new file): every type fine-tuned, and the commonest ones moved in other ways."""
    for kind in KINDS:
        for move in _MOVES if kind in ("q4_0", "q8_0", "q4_K") else _MOVES[:1]:
            old = [weights(0, rows, columns, of=100 * seed + n) for n, (rows, columns) in enumerate(_SHAPES)]
            new = [_moved(w, move, 100 * seed + n) for n, w in enumerate(old)]
            yield f"{kind}_{move}", _file(kind, old), _file(kind, new)


def _moved(matrix: NDArray[np.float32], move: str, seed: int) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed + 50)
    rows = (len(matrix), 1)
    match move:
        case "scratch":
            return weights(0, len(matrix), matrix.shape[1], of=seed + 50)
        case "rows":  # as Adam moves them: each row by its own step
            step = 3e-4 * np.exp(chance.normal(0, 1, rows)) * chance.choice([-1, 1], matrix.shape)
        case "sparse":  # as rows of an embedding that were seen
            step = chance.normal(0, 3e-4, matrix.shape) * (chance.random(rows) < 0.1)
        case _:
            step = chance.normal(0, 1e-4 if move == "tuned" else 6e-4, matrix.shape)
    moved: NDArray[np.float32] = (matrix + step).astype(np.float32)
    return moved


def _file(kind: str, matrices: list[NDArray[np.float32]]) -> bytes:
    parts = {f"blk.{n}.weight": (kind, w.shape, in_blocks(kind, w)) for n, w in enumerate(matrices)}
    norms = {
        f"blk.{n}.norm": ("f32", (len(w),), np.abs(w[:, 0]).astype("<f4").tobytes()) for n, w in enumerate(matrices)
    }
    return gguf({**parts, **norms})


if __name__ == "__main__":
    main()
