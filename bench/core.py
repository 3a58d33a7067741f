"""Decoding with the compiled core and in NumPy, and `zstd -d`, on the same pairs in the same run.

`python -m bench.core [--corpus DIR] [PAIR ...]` makes each pair's update once, decodes it both ways in processes of
their own with a worker's heap (CPU seconds, the best of some rounds in turn), checks that both give the target, and
prints MB/s of the decoded frames; zstd's is the decoding of `zstd -19` of the whole file, in the same rounds.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import zstandard

from bench.speed import pairs
from modelsync_daemon.workers import worker
from modelsync_protocol import codecs
from modelsync_protocol.native import library
from modelsync_protocol.ops import Copy
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.publish.artifact import snapshot

_ROUNDS = 5
_RUNS = 5
_STREAM_BYTES = 128 * 1024


def encode(old: Path, new: Path, out: Path) -> int:
    """Write the pair's encoded update to `out`; return the bytes of the target that frames carry."""
    with snapshot(old) as before, snapshot(new) as after, ThreadPoolExecutor(os.cpu_count()) as pool:
        made = smallest_update(Source(before.manifest, before.stream), Source(after.manifest, after.stream), pool)
        payloads = tuple(bytes(payload) for payload in made.payloads)  # views of a file that goes with the pool
    out.write_bytes(pickle.dumps(replace(made, payloads=payloads)))
    return sum(op.length for op in made.operations if not isinstance(op, Copy))


def decode(made: Encoded, base: memoryview, take: Callable[[int, bytes | bytearray], object], target: bytes) -> None:
    """Decode frame by frame as a device does: a frame that lies over its base is built in one kept piece of memory, and
    what came out is given to `take` with its place, and gone before the next. `target`: what a frame's prefix is of."""
    room = bytearray()
    position, payloads = 0, iter(made.payloads)
    for op in made.operations:
        if not isinstance(op, Copy):
            prefix = target[position - op.prefix : position] if op.prefix else b""
            lean: bytes | bytearray = b""
            if op.encoding in codecs.BUILDS_IN_PLACE and op.base_length == op.length:
                del room[op.length :]
                room.extend(bytes(op.length - len(room)))
                memoryview(room)[:] = base[op.base_offset : op.base_offset + op.length]
                lean = room
            else:
                lean = bytes(base[op.base_offset : op.base_offset + op.base_length])
            take(position, codecs.decode(op.encoding, bytes(next(payloads)), op.length, lean, prefix, made.tables))
            del lean  # else its room is somebody's while the next frame wants it
        position += op.length


def _one(old: Path, new: Path, update: Path) -> None:
    """In a process of its own, with a worker's heap: decode once to be sure, then for the clock."""
    worker.stay_small()
    made, base, target = pickle.loads(update.read_bytes()), memoryview(old.read_bytes()), new.read_bytes()

    def compare(position: int, data: bytes | bytearray) -> None:
        if data != target[position : position + len(data)]:
            raise SystemExit("the decoded bytes are not the target's")

    decode(made, base, compare, target)
    print(json.dumps(_least(lambda: decode(made, base, lambda _position, _data: None, target))))


def _zstd(packed: Path) -> None:
    """The same for `zstd -d`: a stream through one kept buffer."""
    worker.stay_small()
    data, room = packed.read_bytes(), bytearray(_STREAM_BYTES)
    decompressor = zstandard.ZstdDecompressor()

    def once() -> None:
        stream = decompressor.stream_reader(data, read_size=_STREAM_BYTES)
        while stream.readinto(room):
            pass

    print(json.dumps(_least(once)))


def _least(work: Callable[[], None]) -> float:
    """CPU seconds, the least of some runs."""
    taken = []
    for _ in range(_RUNS):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken)


def _seconds(core: str | None, *arguments: str) -> float:
    environment = {key: value for key, value in os.environ.items() if key != library.VARIABLE}
    if core:
        environment[library.VARIABLE] = core
    command = [sys.executable, "-m", "bench.core", *arguments]
    return float(
        json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--one", nargs=3, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--zstd", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("pairs", nargs="*")
    args = parser.parse_args()
    if args.one:
        return _one(*args.one)
    if args.zstd:
        return _zstd(args.zstd)
    found = library.load()
    if found.library is None:
        raise SystemExit(f"there is no compiled core to measure: {found.reason}")
    print(f"{'pair':24} {'frames MB':>9} {'NumPy':>6} {'core':>6} {'times':>6} {'zstd -d':>7} {'by core':>7}   (MB/s)")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (old, new) in pairs(args.corpus, args.pairs).items():
            update, packed = Path(scratch) / "update", Path(scratch) / "zst"
            size = encode(old, new, update) / 1e6
            if not size:
                continue
            whole = new.read_bytes()
            packed.write_bytes(zstandard.ZstdCompressor(19).compress(whole))
            one = ("--one", str(old), str(new), str(update))
            rounds = [
                (_seconds(library.OFF, *one), _seconds(None, *one), _seconds(None, "--zstd", str(packed)))
                for _ in range(args.rounds)
            ]
            slow, fast, peer = (min(each[way] for each in rounds) for way in range(3))
            rate, other = size / fast, len(whole) / 1e6 / peer
            rates = f"{size / slow:6.1f} {rate:6.1f} {slow / fast:6.1f} {other:7.0f} {other / rate:7.1f}"
            print(f"{name:24} {size:9.2f} {rates}", flush=True)


if __name__ == "__main__":
    main()
