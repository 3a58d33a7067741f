"""Publishing on two local workers, with and without one of them killed with -9 in the middle: bytes and time."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from modelsync_server.engine.local import LocalEngine
from modelsync_server.publish.publisher import publish
from modelsync_server.store import create_store
from modelsync_server.trust import initialise

_BASES = {"quick": 3, "default": 6, "full": 6}
_WEIGHTS = {"quick": 200_000, "default": 4_000_000, "full": 24_000_000}
"""Of float32."""


def measure(*, scale: str = "default", scratch: Path | None = None) -> dict[str, Any]:
    """`killed_same_bytes`, and `killed_time_ratio`: the time with a killed worker by that without; the same of
    processor time, which others on the machine change less."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        plain = asyncio.run(_published(Path(folder) / "plain", scale, kill=False))
        killed = asyncio.run(_published(Path(folder) / "killed", scale, kill=True))
    return {
        "values": {
            "killed_same_bytes": plain[1] == killed[1],
            "killed_time_ratio": killed[0] / plain[0],
            "killed_cpu_ratio": killed[3] / plain[3],
            "retried": killed[2],
        },
        "notes": [f"{_BASES[scale]} bases, {4 * _WEIGHTS[scale] / 1e6:,.0f} MB: {plain[0]:.1f} s, {killed[0]:.1f} s"],
    }


async def _published(root: Path, scale: str, *, kill: bool) -> tuple[float, str, int, float]:
    """Of the last publication: seconds, a digest over all that is no metadata, tasks that were begun again, processor
    seconds of this process and its workers."""
    store, keys, path = create_store(str(root / "store")), str(root / "keys"), root / "model.npy"
    await initialise(store, keys)
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(_WEIGHTS[scale], dtype=np.float32)
    for _ in range(_BASES[scale]):
        np.save(path, weights)
        await publish(store, keys, "m", path, last=0)
        weights *= 1 + 1e-4 * rng.standard_normal(len(weights), dtype=np.float32)
    np.save(path, weights)
    engine = LocalEngine(2)
    left = [_BASES[scale] // 2]

    def progress(step: str, done: int, total: int) -> None:
        """In the middle of what follows the packs: that many tasks are done, two are being worked on."""
        if kill and step.startswith(f"encoding, {left[0]} of") and total > path.stat().st_size:
            left[0] = -1
            os.kill(engine.processes[0], signal.SIGKILL)

    begin, before = time.monotonic(), os.times()
    try:
        release = await publish(store, keys, "m", path, last=_BASES[scale], engine=engine, progress=progress)
    finally:
        await engine.close()
    seconds, used = time.monotonic() - begin, sum(os.times()[:4]) - sum(before[:4])
    digest = hashlib.sha256()
    for kind in ("packs", "manifests", "updates"):
        for each in sorted((root / "store" / kind).rglob("*")):
            if each.is_file():
                digest.update(str(each.relative_to(root)).encode() + each.read_bytes())
    return seconds, digest.hexdigest(), release.work.retried, used
