"""Inputs from a seed: float16 models of any size, trees of many files, sparse ones of 10 GB. Written in little memory.

python -m bench.scale.models OUT tensors MB [--touch SHARE] | tree FILES MB [--changed N] | sparse MB [--touch SHARE]
writes OUT/old… and OUT/new…. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MB = 1_000_000
_ROWS, _COLUMNS = 1024, 1024
_LARGE_ROWS = 4096
"""Of models of a gigabyte and more: as many tensors as such models have, not thousands."""

_WORDS = 2000
_SPARE = 1.1
"""What a file system needs beside a file's bytes."""


class DiskTooSmall(Exception):
    """What is to be written does not fit; the message says how much is needed and where."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions of one artifact, files or folders."""

    old: Path
    new: Path


def need_disk(folder: Path, size: int) -> None:
    """Make `folder`; DiskTooSmall unless `size` bytes and a little more are free in it."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size * _SPARE:
        raise DiskTooSmall(
            f"{size * _SPARE / 1e9:.1f} GB are needed in {folder} and {free / 1e9:.1f} GB are free: set TMPDIR to a "
            "folder with more room, or measure a smaller scale."
        )


def tensors(folder: Path, size: int, *, touch: float = 1.0, seed: int = 1) -> Pair:
    """A float16 safetensors of about `size` bytes and its fine-tune.

    In a touched tensor every weight's float32 master moved a little, as optimisers like AdamW do; `touch` is the share
    of tensors that are, and at least one is.
    """
    need_disk(folder, 2 * size)
    rows = _LARGE_ROWS if size >= 1000 * MB else min(_ROWS, max(1, size // (2 * _COLUMNS)))
    pair = Pair(folder / "old.safetensors", folder / "new.safetensors")
    names, header = _header(size, rows)
    chosen = _chosen(len(names), touch, seed)
    with pair.old.open("wb") as old, pair.new.open("wb") as new:
        for file in (old, new):
            file.write(header)
        for number in range(len(names)):
            random = np.random.default_rng((seed, number))
            spread = 0.02 * (1 + 0.5 * random.standard_normal((rows, 1), dtype=np.float32))
            weights = random.standard_normal((rows, _COLUMNS), dtype=np.float32) * spread.astype(np.float32)
            old.write(weights.astype("<f2").tobytes())
            if number in chosen:
                signs = np.sign(random.standard_normal(weights.shape, dtype=np.float32))
                weights += signs * random.gamma(1.0, 4e-6, weights.shape).astype(np.float32)
            new.write(weights.astype("<f2").tobytes())
    return pair


def sparse(folder: Path, size: int, *, touch: float = 0.01, seed: int = 1) -> Pair:
    """A safetensors of about `size` bytes which are holes (zeros to whoever reads them), and its successor in which a
    share `touch` of the tensors holds weights. Both take `touch` × `size` of the disk; a plain copy takes all of it."""
    need_disk(folder, int(size * touch) + MB)
    pair = Pair(folder / "old.safetensors", folder / "new.safetensors")
    rows = _LARGE_ROWS if size >= 1000 * MB else min(_ROWS, max(1, size // (2 * _COLUMNS)))
    names, header = _header(size, rows)
    each, chosen = 2 * rows * _COLUMNS, _chosen(len(names), touch, seed)
    for path, filled in ((pair.old, frozenset[int]()), (pair.new, chosen)):
        with path.open("wb") as file:
            file.write(header)
            for number in sorted(filled):
                random = np.random.default_rng((seed, number))
                weights = random.standard_normal((rows, _COLUMNS), dtype=np.float32) * np.float32(0.02)
                file.seek(len(header) + number * each)
                file.write(weights.astype("<f2").tobytes())
            file.truncate(len(header) + len(names) * each)
    return pair


def tree(folder: Path, files: int, size: int, *, changed: int = 9, seed: int = 1) -> Pair:
    """A folder of `files` files of `size` bytes together, as a Python environment has them (text, some of it binary, in
    packages), and one in which `changed` of the files are others."""
    need_disk(folder, 2 * max(size, 4096 * files))
    random = np.random.default_rng((seed, files))
    words = [b"".join(_syllables(random)) for _ in range(_WORDS)]
    shares = random.lognormal(0.0, 1.2, files)
    sizes = np.maximum(1, shares / shares.sum() * size).astype(int)
    pair = Pair(folder / "old", folder / "new")
    picked = set(random.choice(files, min(changed, files), replace=False).tolist())
    for number, length in enumerate(sizes.tolist()):
        place = f"package{number // 200}/module{number // 20 % 10}/file{number}"
        for root, version in ((pair.old, 0), (pair.new, int(number in picked))):
            path = root / (place + (".bin" if number % 10 == 0 else ".py"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_content(number, length, version, words, seed))
    return pair


def _header(size: int, rows: int) -> tuple[list[str], bytes]:
    each = 2 * rows * _COLUMNS
    names = [f"blocks.{number}.weight" for number in range(max(1, size // each))]
    table: dict[str, Any] = {
        name: {"dtype": "F16", "shape": [rows, _COLUMNS], "data_offsets": [place * each, (place + 1) * each]}
        for place, name in enumerate(names)
    }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return names, len(text).to_bytes(8, "little") + text


def _chosen(count: int, share: float, seed: int) -> frozenset[int]:
    random = np.random.default_rng((seed, count, 7))
    picked = random.choice(count, max(1, round(count * share)), replace=False)
    return frozenset(picked.tolist())


def _syllables(random: np.random.Generator) -> Iterator[bytes]:
    for _ in range(int(random.integers(1, 4))):
        yield bytes((int(random.choice(list(b"bdfgklmnprst"))), int(random.choice(list(b"aeiou")))))


def _content(number: int, length: int, version: int, words: list[bytes], seed: int) -> bytes:
    """Of one file: a changed text has other words in its middle, a changed binary file other bytes."""
    random = np.random.default_rng((seed, number))
    if number % 10 == 0:
        data = bytearray(random.bytes(length))
    else:
        picked = (random.zipf(1.3, length // 4 + 1) - 1) % _WORDS
        data = bytearray(b" ".join(words[word] for word in picked.tolist())[:length].ljust(length, b"\n"))
    if version:
        begin, count = length // 2, max(1, min(200, length // 8))
        data[begin : begin + count] = np.random.default_rng((seed, number, version)).bytes(count).hex().encode()[:count]
    return bytes(data)


def main() -> None:
    """Write a pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, share in (("tensors", 1.0), ("sparse", 0.01)):
        of_tensors = kinds.add_parser(kind)
        of_tensors.add_argument("mb", type=int)
        of_tensors.add_argument("--touch", type=float, default=share, help="share of tensors that change")
    of_files = kinds.add_parser("tree")
    of_files.add_argument("files", type=int)
    of_files.add_argument("mb", type=float)
    of_files.add_argument("--changed", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        if options.kind == "tree":
            pair = tree(options.out, options.files, int(options.mb * MB), changed=options.changed, seed=options.seed)
        else:
            make = tensors if options.kind == "tensors" else sparse
            pair = make(options.out, options.mb * MB, touch=options.touch, seed=options.seed)
    except DiskTooSmall as error:
        raise SystemExit(str(error)) from None
    print(pair.old, pair.new)


if __name__ == "__main__":
    main()
