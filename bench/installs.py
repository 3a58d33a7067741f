"""First installs: packs against `zstd -19 --long=27`. `python -m bench.installs [--corpus DIR] [PAIR ...]`."""

from __future__ import annotations

import argparse
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.speed import pairs
from modelsync_protocol.index import encode_object
from modelsync_server.encode.encoder import Source
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.packer import pack


def main() -> None:
    """Measure and print; exits 1 if a pack is more than 2 % larger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("pairs", nargs="*")
    options = parser.parse_args()
    worst = 0.0
    print(f"{'pair':26} {'pack':>11} {'zstd':>11} {'ratio':>7} {'with manifest':>13}")
    for name, (_, new) in pairs(options.corpus, options.pairs).items():
        with snapshot(new) as artifact, ThreadPoolExecutor(os.cpu_count()) as pool:
            index, packs = pack(Source(artifact.manifest, artifact.stream), {}, pool, lambda step, done, total: None)
            size = sum(map(len, packs.values()))
            manifest = len(encode_object(artifact.manifest, index))
        peer = len(
            subprocess.run(["zstd", "-q", "-19", "--long=27", "-c", str(new)], check=True, capture_output=True).stdout
        )
        worst = max(worst, size / peer)
        print(f"{name:26} {size:>11,} {peer:>11,} {size / peer:>7.4f} {(size + manifest) / peer:>13.4f}", flush=True)
    raise SystemExit(0 if worst <= 1.02 else f"a pack is {worst:.3f} times as large as zstd")


if __name__ == "__main__":
    main()
