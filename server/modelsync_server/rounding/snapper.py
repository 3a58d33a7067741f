"""Rounds a model file's update at several steps, measures each, and writes the coarsest within a drift."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Source
from modelsync_server.publish.artifact import snapshot
from modelsync_server.rounding import effect, snapped

SUFFIXES = (".safetensors", ".onnx", ".npz", ".npy")


@dataclass(frozen=True, slots=True)
class Point:
    """One rounding: `drift` as it was measured, drift in the weights, and about what the update costs (bytes)."""

    step: float
    drift: float
    weights: float
    bytes: int


@dataclass(frozen=True, slots=True)
class SnappedFile:
    """What was tried, from fine to coarse, and what was written; `measured` says in what `drift` is."""

    measured: str
    exact_bytes: int
    points: tuple[Point, ...]
    chosen: Point
    tensors: int


def snap_file(
    old: Path,
    new: Path,
    out: Path,
    *,
    drift: float,
    inputs: Path | None = None,
    weights: bool = False,
    steps: Sequence[float] = snapped.STEPS,
) -> SnappedFile:
    """Write `new` to `out`, its update from `old` rounded as far as `drift` allows; `out` must not exist.

    All `steps` are tried, from fine to coarse. `inputs` as of `effect.effect`; `weights` measures in the weights where
    answers could be measured.

    UsageError if nothing can be rounded, or no rounding stays within `drift`; RefusedError if `out` exists.
    """
    for path in (old, new):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise UsageError(f"{path} is no file that can be rounded; these can: {', '.join(SUFFIXES)}.")
    onnx = new.suffix.lower() == ".onnx" and not weights
    if inputs is not None and not onnx:
        raise UsageError("--inputs goes with ONNX models, whose answers are measured; drop it or --weights.")
    if out.exists():
        raise RefusedError(f"{out} exists; give another name: snap overwrites nothing.")
    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
        before, after = (stack.enter_context(snapshot(path)) for path in (old, new))
        base, target = Source(before.manifest, before.stream), Source(after.manifest, after.stream)
        moved = snapped.moved_tensors(base, target)
        if not moved:
            raise UsageError("no tensor of floats moved between the two files, so there is nothing to round.")
        measure = effect.effect(old.read_bytes(), new.read_bytes(), inputs) if onnx else None
        exact = smallest_update(base, target, pool).cost
        points: list[Point] = []
        best: tuple[Point, snapped.Snapped] | None = None
        for step in steps:
            made = snapped.snap(target, moved, step)
            if not made.tensors:
                continue
            if new.suffix.lower() == ".npz":
                made = replace(made, stream=_with_checksums(made.stream))
            found = made.drift if measure is None else measure(made.stream)
            point = Point(step, found, made.drift, snapped.update_bytes(base, target, made, pool))
            points.append(point)
            if found <= drift and point.bytes < (exact if best is None else best[0].bytes):
                best = point, made
    if best is None:
        least = min((point.drift for point in points), default=0.0)
        raise UsageError(
            f"no rounding saves bytes within a drift of {drift:g}; the finest drifts by {least:.3g}: allow more."
        )
    with out.open("xb") as file:
        file.write(best[1].stream)
    measured = "weights" if measure is None else "answers"
    return SnappedFile(measured, exact, tuple(points), best[0], best[1].tensors)


def _with_checksums(stream: bytes) -> bytes:
    """A zip file whose stored entries changed, with CRC-32s that fit them: in local headers and in the directory."""
    out = bytearray(stream)
    with zipfile.ZipFile(io.BytesIO(stream)) as archive:
        place = archive.start_dir
        for entry in archive.infolist():
            local = entry.header_offset
            begin = local + 30 + sum(int.from_bytes(stream[local + at : local + at + 2], "little") for at in (26, 28))
            if entry.compress_type == zipfile.ZIP_STORED:
                checksum = zlib.crc32(stream[begin : begin + entry.file_size])
                if checksum != entry.CRC and entry.flag_bits & 8:
                    raise UsageError(f"{entry.filename} has its checksum behind its data: write it with numpy.savez.")
                if checksum != entry.CRC:
                    out[local + 14 : local + 18] = out[place + 16 : place + 20] = checksum.to_bytes(4, "little")
            lengths = (int.from_bytes(stream[place + at : place + at + 2], "little") for at in (28, 30, 32))
            place += 46 + sum(lengths)
    return bytes(out)
