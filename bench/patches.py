"""Measures updates against zstd -19, zstd --patch-from, bsdiff and HDiffPatch in one run; prints the geometric mean.

python -m bench.patches DIR [DIR …] [--only PAIR …] [--skip PAIR …]
Each DIR has one folder a pair with old.* and new.*. Ours is the whole update object that a publisher would write; the
peers' are their patches. bsdiff and HDiffPatch need `pip install bsdiff4 hdiffpatch`. The exit code is 1 if a pair is
worse than its best peer by more than 64 bytes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import zstandard

from modelsync_server.encode.encoder import Source
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.publisher import updates

_MARGIN = 64
_ANY = 1 << 60
"""A first install that no update is compared with."""

Patch = Callable[[bytes, bytes], int]


def main() -> int:
    """Print one row a pair and the mean; 1 if a pair is worse than the best peer by more than the margin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", type=Path, nargs="+")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--skip", nargs="+", default=[])
    arguments = parser.parse_args()
    peers = dict(_peers())
    folders = [folder for corpus in arguments.corpus for folder in sorted(corpus.iterdir()) if folder.is_dir()]
    wanted = [f for f in folders if f.name not in arguments.skip and (not arguments.only or f.name in arguments.only)]
    print(f"{'pair':24} {'format 1':>10} {'ours':>10} {'ratio':>6} {'+':>9} " + " ".join(f"{n:>10}" for n in peers))
    logs, worse = [], 0
    for folder in wanted:
        old, new = (next(folder.glob(f"{side}.*")) for side in ("old", "new"))
        started = time.perf_counter()
        sizes = _ours(old, new)
        seconds = time.perf_counter() - started
        theirs = {name: peer(old.read_bytes(), new.read_bytes()) for name, peer in peers.items()}
        ours, best = min(sizes.values()), min(theirs.values())
        logs.append(math.log(ours / best))
        worse += ours > best + _MARGIN
        print(
            f"{folder.name:24} {sizes.get(1, 0):>10,} {ours:>10,} {ours / best:>6.3f} {ours - best:>+9,} "
            + " ".join(f"{size:>10,}" for size in theirs.values())
            + f" {seconds:6.1f} s{' WORSE' if ours > best + _MARGIN else ''}",
            flush=True,
        )
    print(
        f"geometric mean {math.exp(sum(logs) / max(1, len(logs))):.4f} over {len(logs)} pairs; worse by more: {worse}"
    )
    return 1 if worse else 0


def _ours(old: Path, new: Path) -> dict[int, int]:
    """Bytes of the update objects, by version of their format."""
    with snapshot(old, None) as a, snapshot(new, None) as b, ThreadPoolExecutor(os.cpu_count()) as pool:
        base, target = Source(a.manifest, a.stream), Source(b.manifest, b.stream)
        return {version: len(data) for version, data in updates(base, target, _ANY, pool).items()}


def _peers() -> Iterator[tuple[str, Patch]]:
    yield "zstd-19", lambda old, new: len(zstandard.ZstdCompressor(level=19).compress(new))
    yield "patch-from", _patch_from
    with suppress(ImportError):
        bsdiff4 = import_module("bsdiff4")
        yield "bsdiff", lambda old, new: len(bsdiff4.diff(old, new))
    with suppress(ImportError):
        hdiffpatch = import_module("hdiffpatch")
        yield (
            "hdiffpatch",
            lambda old, new: min(len(hdiffpatch.diff(old, new, compression=kind)) for kind in ("zstd", "lzma2")),
        )


def _patch_from(old: bytes, new: bytes) -> int:
    """As `zstd -19 --ultra --long=27 --patch-from` does it."""
    window = max(20, min(30, (len(old) + len(new)).bit_length()))
    options = zstandard.ZstdCompressionParameters.from_level(19, window_log=window, enable_ldm=True)
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return len(zstandard.ZstdCompressor(dict_data=dictionary, compression_params=options).compress(new))


if __name__ == "__main__":
    sys.exit(main())
