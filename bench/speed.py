"""Sizes, speeds and memory of our updates against hdiffpatch, bsdiff and zstd on the same pair in the same run.

`python -m bench.speed [--corpus DIR] [PAIR ...]` prints a table: bytes, and encode and decode time as multiples of
hdiffpatch's and of `zstd -d` of the whole file. Each figure is taken in a process of its own. Without a corpus the
repository's example models are measured. Peers that are not installed (`make bench` installs them) are named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_EXAMPLES = Path(__file__).parents[1] / "examples"
_OWN = {
    "digits-float32": _EXAMPLES / "digits" / "float32",
    "digits-int8": _EXAMPLES / "digits" / "int8",
    "anomaly": _EXAMPLES / "anomaly",
}
_REPEATS = 3


def pairs(corpus: Path | None, names: list[str]) -> dict[str, tuple[Path, Path]]:
    """Name → (old, new)."""
    if corpus is None:
        found = {name: (path / "v1" / "model.onnx", path / "v2" / "model.onnx") for name, path in _OWN.items()}
    else:
        folders = sorted(path for path in corpus.iterdir() if path.is_dir())
        found = {path.name: (next(path.glob("old.*")), next(path.glob("new.*"))) for path in folders}
    return {name: files for name, files in found.items() if not names or name in names}


def measure(way: str, old: Path, new: Path) -> dict[str, Any]:
    """One way on one pair, in a fresh process: bytes, best seconds to encode and decode, peak memory in MiB."""
    out = subprocess.run(
        [sys.executable, "-m", "bench.speed", "--one", way, str(old), str(new)], capture_output=True, text=True
    )
    if out.returncode:
        raise SystemExit(f"{way} failed on {new}: {out.stderr.strip()[-400:]}")
    document = json.loads(out.stdout)
    assert isinstance(document, dict)
    return document


def best_of(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The shortest of a few runs, seconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def peak() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def modelsync(old: Path, new: Path) -> dict[str, Any]:
    """Our update object; decoding is what a device does after the download, in memory."""
    from modelsync_protocol import codecs, update
    from modelsync_protocol.ops import Copy
    from modelsync_server.encode.choice import smallest_update
    from modelsync_server.encode.encoder import Source
    from modelsync_server.publish.artifact import snapshot

    with snapshot(old) as before, snapshot(new) as after, ThreadPoolExecutor(os.cpu_count()) as pool:
        base, target = Source(before.manifest, before.stream), Source(after.manifest, after.stream)
        begin = time.perf_counter()
        encoded = smallest_update(base, target, pool)
        header = update.encode_header(base.manifest, target.manifest, encoded.operations, encoded.tables)
        encode = time.perf_counter() - begin
        memory = peak()

        def decode() -> bytes:
            out = bytearray()
            payloads = iter(encoded.payloads)
            for op in encoded.operations:
                if isinstance(op, Copy):
                    source = out if op.own else base.stream
                    out += bytes(source[op.offset : op.offset + op.length])
                else:
                    lean = bytes(base.stream[op.base_offset : op.base_offset + op.base_length])
                    prefix = bytes(out[len(out) - op.prefix :]) if op.prefix else b""
                    out += codecs.decode(op.encoding, bytes(next(payloads)), op.length, lean, prefix, encoded.tables)
            return bytes(out)

        assert decode() == bytes(target.stream)
        size = len(header) + sum(map(len, encoded.payloads))
        return {"bytes": size, "encode": encode, "decode": best_of(decode), "memory": memory}


def hdiffpatch(old: Path, new: Path) -> dict[str, Any]:
    """HDiffPatch with zstd at its highest level."""
    import hdiffpatch as peer

    before, after = old.read_bytes(), new.read_bytes()
    begin = time.perf_counter()
    patch = peer.diff(before, after, compression=peer.ZStdConfig(level=22), validate=False)
    encode = time.perf_counter() - begin
    assert peer.apply(before, patch) == after
    decode = best_of(lambda: peer.apply(before, patch))
    return {"bytes": len(patch), "encode": encode, "decode": decode, "memory": peak()}


def bsdiff(old: Path, new: Path) -> dict[str, Any]:
    """bsdiff 4."""
    import bsdiff4

    before, after = old.read_bytes(), new.read_bytes()
    begin = time.perf_counter()
    patch = bsdiff4.diff(before, after)
    encode = time.perf_counter() - begin
    assert bsdiff4.patch(before, patch) == after
    return {
        "bytes": len(patch),
        "encode": encode,
        "decode": best_of(lambda: bsdiff4.patch(before, patch), 1),
        "memory": peak(),
    }


def zstd_patch(old: Path, new: Path) -> dict[str, Any]:
    """`zstd -19 --long=31 --patch-from`; memory is not known."""
    patch = Path(f"/tmp/modelsync-bench-{os.getpid()}.zst")
    try:
        begin = time.perf_counter()
        command = ["zstd", "-q", "-f", "-19", "--long=31", f"--patch-from={old}", str(new), "-o", str(patch)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        encode = time.perf_counter() - begin
        back = ["zstd", "-q", "-d", "-f", "--long=31", f"--patch-from={old}", str(patch), "-o", "/dev/null"]
        decode = best_of(lambda: subprocess.run(back, check=True, stderr=subprocess.DEVNULL))
        return {"bytes": patch.stat().st_size, "encode": encode, "decode": decode, "memory": 0.0}
    finally:
        patch.unlink(missing_ok=True)


def zstd(old: Path, new: Path) -> dict[str, Any]:
    """The whole file with zstd -19, as a first install would have it."""
    import zstandard

    data = new.read_bytes()
    begin = time.perf_counter()
    packed = zstandard.ZstdCompressor(level=19).compress(data)
    encode = time.perf_counter() - begin
    decoder = zstandard.ZstdDecompressor()
    return {
        "bytes": len(packed),
        "encode": encode,
        "decode": best_of(lambda: decoder.decompress(packed)),
        "memory": peak(),
    }


WAYS = {"modelsync": modelsync, "hdiffpatch": hdiffpatch, "bsdiff": bsdiff, "zstd-patch": zstd_patch, "zstd": zstd}
_NEEDS = {"hdiffpatch": "hdiffpatch", "bsdiff": "bsdiff4"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "OLD", "NEW"), help=argparse.SUPPRESS)
    parser.add_argument("pairs", nargs="*")
    options = parser.parse_args()
    if options.one:
        way, old, new = options.one
        json.dump(WAYS[way](Path(old), Path(new)), sys.stdout)
        return
    ways = [way for way in WAYS if way not in _NEEDS or importlib.util.find_spec(_NEEDS[way])]
    missing = sorted(set(WAYS) - set(ways))
    print(f"not installed and so not measured: {', '.join(missing)}" if missing else "all peers are measured")
    print(f"{'pair':26} {'way':11} {'bytes':>11} {'of best peer':>12} {'encode s':>9} {'decode s':>9} "
          f"{'× zstd -d':>9} {'peak MiB':>9}")  # fmt: skip
    for name, (old, new) in pairs(options.corpus, options.pairs).items():
        rows = {way: measure(way, old, new) for way in ways}
        peers = [row["bytes"] for way, row in rows.items() if way != "modelsync"]
        for way, row in rows.items():
            print(
                f"{name:26} {way:11} {row['bytes']:>11,} {row['bytes'] / min(peers):>12.3f} {row['encode']:>9.2f} "
                f"{row['decode']:>9.4f} {row['decode'] / rows['zstd']['decode']:>9.1f} {row['memory']:>9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
