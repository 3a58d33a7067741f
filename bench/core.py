"""Decoding with the compiled core and in NumPy, and `zstd -d`, on the same pairs in the same run.

`python -m bench.core [--corpus DIR] [PAIR ...]` makes each pair's update once, decodes it both ways in processes of
their own (CPU
seconds, the best of some rounds in turn), checks that both give the target, and prints MB/s of the decoded frames;
zstd's is the
decoding of `zstd -19` of the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import zstandard

from bench.speed import pairs
from modelsync_protocol import codecs
from modelsync_protocol.native import library
from modelsync_protocol.ops import Copy
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.publish.artifact import snapshot

_ROUNDS = 5


def encode(old: Path, new: Path, out: Path) -> int:
    """Write the pair's encoded update to `out`; return the bytes of the target that frames carry."""
    with snapshot(old) as before, snapshot(new) as after, ThreadPoolExecutor(os.cpu_count()) as pool:
        made = smallest_update(Source(before.manifest, before.stream), Source(after.manifest, after.stream), pool)
        payloads = tuple(bytes(payload) for payload in made.payloads)  # views of a file that goes with the pool
    out.write_bytes(pickle.dumps(replace(made, payloads=payloads)))
    return sum(op.length for op in made.operations if not isinstance(op, Copy))


def decode(made: Encoded, base: memoryview) -> bytes:
    """The target's bytes."""
    out = bytearray()
    payloads = iter(made.payloads)
    for op in made.operations:
        if isinstance(op, Copy):
            source = out if op.own else base
            out += bytes(source[op.offset : op.offset + op.length])
        else:
            lean = bytes(base[op.base_offset : op.base_offset + op.base_length])
            prefix = bytes(out[len(out) - op.prefix :]) if op.prefix else b""
            out += codecs.decode(op.encoding, bytes(next(payloads)), op.length, lean, prefix, made.tables)
    return bytes(out)


def _one(old: Path, new: Path, update: Path) -> None:
    """In a process of its own: decode once to be sure, then once for the clock."""
    made, base, target = pickle.loads(update.read_bytes()), memoryview(old.read_bytes()), new.read_bytes()
    if decode(made, base) != target:
        raise SystemExit("the decoded bytes are not the target's")
    begin = time.process_time()
    decode(made, base)
    print(json.dumps(time.process_time() - begin))


def _seconds(old: Path, new: Path, update: Path, core: str | None) -> float:
    environment = {key: value for key, value in os.environ.items() if key != library.VARIABLE}
    command = [sys.executable, "-m", "bench.core", "--one", str(old), str(new), str(update)]
    if core:
        environment[library.VARIABLE] = core
    return float(
        json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    )


def _zstd_seconds(data: bytes) -> float:
    packed = zstandard.ZstdCompressor(19).compress(data)
    begin = time.process_time()
    zstandard.ZstdDecompressor().decompress(packed)
    return time.process_time() - begin


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--one", nargs=3, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("pairs", nargs="*")
    args = parser.parse_args()
    if args.one:
        return _one(*args.one)
    found = library.load()
    if found.library is None:
        raise SystemExit(f"there is no compiled core to measure: {found.reason}")
    print(f"{'pair':28} {'frames MB':>9} {'NumPy MB/s':>10} {'core MB/s':>9} {'times':>6} {'zstd -d MB/s':>12}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (old, new) in pairs(args.corpus, args.pairs).items():
            update = Path(scratch) / "update"
            size = encode(old, new, update) / 1e6
            if not size:
                continue
            rounds = [
                (_seconds(old, new, update, library.OFF), _seconds(old, new, update, None)) for _ in range(args.rounds)
            ]
            slow, fast = min(each[0] for each in rounds), min(each[1] for each in rounds)
            data = new.read_bytes()
            peer = len(data) / 1e6 / min(_zstd_seconds(data) for _ in range(2))
            print(
                f"{name:28} {size:9.2f} {size / slow:10.1f} {size / fast:9.1f} {slow / fast:6.1f} {peer:12.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
