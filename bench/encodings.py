"""Measures updates of real model pairs: our bytes, header included, against the peers' and against the goals.

python -m bench.encodings [--floor] --corpus DIR [PAIR ...]
DIR has one folder a pair with old.* and new.*; the peers' figures are those that came with the corpus.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import floor
from modelsync_protocol import codecs, update
from modelsync_protocol.ops import Copy, Frame
from modelsync_server.encode.byte_candidates import improved
from modelsync_server.encode.encoder import Encoded, Source, encode_update
from modelsync_server.encode.tensor_encoder import encode_tensors
from modelsync_server.publish.artifact import snapshot

PEERS = {
    "cnn_fp16_adamw1e-5": 3_465_704,
    "cnn_full_adamw1e-5": 8_137_734,
    "cnn_head": 47_071,
    "cnn_int8_adamw1e-5": 1_988_786,
    "esphome_oknabu_v1": 31_951,
    "haver_c100q_0164-0165": 182_435,
    "magika_v3.2-v3.3": 2_895_077,
    "mini_full_20": 13_585_121,
    "mini_lora8": 1_769_418,
    "silero_op13-op15": 157,
    "silero_v6-v6.2": 1_720_434,
    "sk_iforest_100": 332_916,
    "sk_logreg": 4_818,
    "sk_logreg_onnx": 2_396,
    "sk_ocsvm": 1_142,
    "sk_rf_100": 213_985,
    "sk_rf_100_onnx": 68_753,
}
"""Best of zstd --patch-from, bsdiff, hdiffpatch and chunk systems, bytes."""

GOALS = {
    "cnn_int8_adamw1e-5": 430_000,
    "cnn_fp16_adamw1e-5": 1_560_000,
    "cnn_full_adamw1e-5": 5_280_000,
    "mini_full_20": 9_250_000,
    "mini_full_20_int8frozen": 225_000,
    "mini_full_20_bf16": 1_150_000,
    "mini_lora8": 1_600_000,
    "magika_v3.2-v3.3": 2_630_000,
    "silero_v6-v6.2": 1_570_000,
}
"""Where a pair is not named: the best peer and 250 bytes."""

_MARGIN = 250


def main() -> int:
    """Print one row a pair; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--plain", action="store_true", help="also measure the encoder that knows no tensors")
    parser.add_argument("--floor", action="store_true", help="how far tensors are from an adaptive coder's bytes")
    parser.add_argument("pairs", nargs="*")
    arguments = parser.parse_args()
    folders = [arguments.corpus / p for p in arguments.pairs] or sorted(p for p in arguments.corpus.iterdir())
    if arguments.floor:
        return _floors(folders)
    print(f"{'pair':26} {'ours':>10} {'header':>6} {'plain':>10} {'peer':>10} {'goal':>10}      encode  decode  frames")
    missed = 0
    for folder in folders:
        missed += not _measure(folder, arguments.plain)
    print(f"largest resident set {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    return 1 if missed else 0


def _floors(folders: list[Path]) -> int:
    """Print for each pair and element type what its tensors take, and what an adaptive coder would."""
    print(f"{'pair':26} {'type':10} {'elements':>11} {'ours':>12} {'adaptive':>12} {'':9} {'+ neighbours':>12}")
    for folder in folders:
        old, new = next(folder.glob("old.*")), next(folder.glob("new.*"))
        with snapshot(old, None) as a, snapshot(new, None) as b, ThreadPoolExecutor(os.cpu_count()) as pool:
            found = floor.floors(Source(a.manifest, a.stream), Source(b.manifest, b.stream), pool)
        print("\n".join(floor.rows(folder.name, found)), flush=True)
    return 0


def _measure(folder: Path, plain: bool) -> bool:
    """Print a pair's row; True if its goal is met."""
    old, new = next(folder.glob("old.*")), next(folder.glob("new.*"))
    with snapshot(old, None) as a, snapshot(new, None) as b, ThreadPoolExecutor(os.cpu_count()) as pool:
        base, target = Source(a.manifest, a.stream), Source(b.manifest, b.stream)
        started = time.perf_counter()
        encoded = encode_tensors(base, target, pool)
        seconds = time.perf_counter() - started
        other = encode_update(base, target, pool) if plain or encoded is None else None
        other = improved(other, base, target, pool) if other is not None else None
        best = encoded or other
        assert best is not None
        started = time.perf_counter()
        assert _decoded(best, base) == bytes(target.stream), folder.name
        decoding = time.perf_counter() - started
        size, header = _size(best, base, target)
    peer = PEERS.get(folder.name)
    goal = GOALS.get(folder.name, None if peer is None else peer + _MARGIN)
    met = goal is None or size <= goal
    frames = Counter(op.encoding for op in best.operations if isinstance(op, Frame))
    print(
        f"{folder.name:26} {size:>10,} {header:>6,} {_size(other, base, target)[0] if other else 0:>10,} "
        f"{peer or 0:>10,} {goal or 0:>10,} {'none' if goal is None else 'ok  ' if met else 'MISS'} {seconds:>6.1f} s "
        f"{target.manifest.size / decoding / 1e6:>6.1f} MB/s {dict(sorted(frames.items()))}"
    )
    sys.stdout.flush()
    return met


def _size(encoded: Encoded, base: Source, target: Source) -> tuple[int, int]:
    """(bytes of the update object, of its header)."""
    header = update.encode_header(base.manifest, target.manifest, encoded.operations, encoded.tables)
    return len(header) + sum(map(len, encoded.payloads)), len(header)


def _decoded(encoded: Encoded, base: Source) -> bytes:
    out = bytearray()
    payloads = iter(encoded.payloads)
    for op in encoded.operations:
        if isinstance(op, Copy):
            out += (out if op.own else base.stream)[op.offset : op.offset + op.length]
            continue
        lean = bytes(base.stream[op.base_offset : op.base_offset + op.base_length])
        prefix = bytes(out[len(out) - op.prefix :]) if op.prefix else b""
        out += codecs.decode(op.encoding, bytes(next(payloads)), op.length, lean, prefix, encoded.tables)
    return bytes(out)


if __name__ == "__main__":
    sys.exit(main())
