"""The compiled core under AddressSanitizer and UBSan, against NumPy: `python -m tests.fuzz.core --seconds 60`.

Frames with every type, predictor and level there is, then the same damaged (tests/support/core_frames.py), and the
encoder's
functions on noise. A difference, or a byte read or written outside of what C was given, ends it with 1 and says the
seed. It compiles
the core anew with gcc or clang (CC) and starts itself again with the sanitizer loaded first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from modelsync_core import build

from modelsync_protocol import chunker
from modelsync_protocol.codecs import numerals
from modelsync_protocol.native import core, library
from modelsync_server.tensors import rans_writer, symbol_writer
from tests.support import core_frames

WORK = core_frames.ROOT / "build" / "fuzz" / "core"
_SANITIZE = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
_DAMAGES = 8


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.core", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the first; 0: by time, somewhere else each time")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    first = options.seed or time.time_ns() // 1_000_000
    if options.inside:
        return _search(first, options.seconds)
    compiler = os.environ.get("CC", "cc")
    os.environ["CFLAGS"] = f"{_SANITIZE} {os.environ.get('CFLAGS', '')}"
    WORK.mkdir(parents=True, exist_ok=True)
    made = build.compile_library(WORK / "libmodelsync_core.so")
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    environment = {
        **os.environ,
        library.VARIABLE: str(made),
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # an interpreter's, at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # else small buffers lie in arenas, where no one sees the end of one
    }
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.core",
        "--inside",
        "--seconds",
        str(options.seconds),
        "--seed",
        str(first),
    ]
    return subprocess.run(command, env=environment, cwd=core_frames.ROOT, check=False).returncode


def _search(seed: int, seconds: float) -> int:
    if core.core() is None:
        raise SystemExit(f"the sanitized core can't be used: {library.load().reason}")
    begin, frames, refused = time.monotonic(), 0, 0
    while time.monotonic() - begin < seconds:
        sys.stderr.write(f"\rseed {seed}")  # what a sanitizer's last words lack
        made = core_frames.frame(seed, 300 if seed % 4 else 6000)  # long ones take the vectors' way
        for number in range(-1, _DAMAGES):
            payload = made.payload if number < 0 else core_frames.damaged(made, _DAMAGES * seed + number)
            fast, slow = core_frames.both(made, payload)
            if fast != slow or (number < 0 and fast == "refused"):
                raise SystemExit(f"\nseed {seed}, damage {number}: the core and NumPy differ")
            frames, refused = frames + 1, refused + (fast == "refused")
        for name, work in _functions(seed).items():
            with core_frames.reference():
                slow_result = work()
            if work() != slow_result:
                raise SystemExit(f"\nseed {seed}, {name}: the core and NumPy differ")
        seed += 1
    sys.stdout.write(f"\n{frames} frames, {refused} of them refused: the core and NumPy agree, no sanitizer spoke\n")
    return 0


def _functions(seed: int) -> dict[str, Callable[[], object]]:
    """The encoder's on noise: what they are given comes from a publisher's own data, of any value all the same."""
    rng = np.random.default_rng(seed)
    kind = numerals.NUMERALS[seed % len(numerals.NUMERALS)]
    size = int(rng.integers(1, 300))
    new, old = (np.frombuffer(rng.bytes(size * kind.width), kind.unsigned_dtype) for _ in range(2))
    counts = rng.integers(0, 65, size).astype(np.uint8)
    fields = np.frombuffer(rng.bytes(8 * size), np.uint64)
    data = rng.bytes(int(rng.integers(0, 40_000)))
    drop = int(rng.integers(0, 8 * kind.width))

    def letters() -> object:
        made = symbol_writer.delta_letters(kind, new, old, drop)
        return made.symbols.tobytes(), made.fields.tobytes()

    part, there, lean = core_frames.elements(seed, 300 if seed % 4 else 6000)

    def written() -> object:
        fields = rans_writer.Fields(there.nbytes)
        found = symbol_writer.symbols_of(part, there, lean, fields)
        cells = symbol_writer.cells_of(found)
        costs = symbol_writer.costs(found.contexts, found.symbols, np.arange(65536, dtype=np.float32))
        steps = np.full(65536, 17 | 5 << 16, np.uint32)
        packed = fields.packed(), *rans_writer.encode_rows(found.contexts, found.symbols, steps, np.zeros(8, np.uint16))
        return [array.tobytes() for array in (found.contexts, found.symbols, cells, costs)], packed

    return {
        "letters": letters,
        "written": written,
        "pack": lambda: rans_writer.pack_bits(fields, counts),
        "gear": lambda: chunker.chunk_sizes("x.bin", memoryview(data)),
    }


if __name__ == "__main__":
    sys.exit(main())
