"""Whether any update costs more than the best patch: bytes of all pairs, and their geometric mean, in one run.

`python -m bench.patches DIR [DIR …] [--only PAIR …] [--skip PAIR …]`
Each DIR has one folder a pair with old.* and new.*. Ours is the smallest update object that a publisher writes, of any
version of the format; peers are those of `bench.speed`. The exit code is 1 if a pair is worse than its best peer by
more than 64 bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import speed
from modelsync_server.encode.encoder import Source
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.tasks import updates

_MARGIN = 64
_ANY = 1 << 60
"""A first install so large that every update beats it."""

_NEEDS = {"hdiffpatch": "hdiffpatch", "bsdiff": "bsdiff4"}


def main() -> int:
    """Print one row a pair and the mean; 1 if a pair is worse than the best peer by more than the margin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", type=Path, nargs="+")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--skip", nargs="+", default=[])
    options = parser.parse_args()
    ways = [way for way in speed.WAYS if way != "modelsync" and importlib.util.find_spec(_NEEDS.get(way, "bench"))]
    found = {name: files for corpus in options.corpus for name, files in speed.pairs(corpus, options.only).items()}
    print(
        f"{'pair':24} {'format 1':>10} {'ours':>10} {'ratio':>6} {'more by':>10} " + " ".join(f"{w:>10}" for w in ways)
    )
    logs, worse = [], 0
    for name, (old, new) in found.items():
        if name in options.skip:
            continue
        started = time.perf_counter()
        sizes = _ours(old, new)
        seconds = time.perf_counter() - started
        theirs = [int(speed.measure(way, old, new)["bytes"]) for way in ways]
        ours, best = min(sizes.values()), min(theirs)
        logs.append(math.log(ours / best))
        worse += ours > best + _MARGIN
        row = f"{name:24} {sizes.get(1, 0):>10,} {ours:>10,} {ours / best:>6.3f} {ours - best:>+10,} "
        mark = " WORSE" if ours > best + _MARGIN else ""
        print(row + " ".join(f"{size:>10,}" for size in theirs) + f" {seconds:6.1f} s{mark}", flush=True)
    print(
        f"geometric mean {math.exp(sum(logs) / max(1, len(logs))):.4f} over {len(logs)} pairs; worse by more: {worse}"
    )
    return 1 if worse else 0


def _ours(old: Path, new: Path) -> dict[int, int]:
    """Bytes of the update objects, by version of their format."""
    with snapshot(old, None) as a, snapshot(new, None) as b, ThreadPoolExecutor(os.cpu_count()) as pool:
        base, target = Source(a.manifest, a.stream), Source(b.manifest, b.stream)
        return {version: len(data) for version, data in updates(base, target, _ANY, pool).items()}


if __name__ == "__main__":
    sys.exit(main())
