"""What the confinement of the daemon's workers costs: jobs with it and without, alternating in one run.

`python -m bench.worker_confinement [--rounds N]`. A job asks a local origin for a version that is held already, so that
it is a worker's start, the check of signed metadata in its process, and the end: the least that a job can be.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from modelsync_daemon.confinement import layers
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.workers.messages import Job
from modelsync_daemon.workers.worker_client import ChildPreparer
from modelsync_daemon.workers.zygote import Zygote
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


def main() -> None:
    """Print the median of a job with confinement and without, ms, and the layers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    zygotes = {True: Zygote.start()}
    confine, layers._confine = layers._confine, lambda *_: []
    zygotes[False] = Zygote.start()
    layers._confine = confine
    found = asyncio.run(_measure(zygotes, rounds))
    confined, free = (statistics.median(found[on]) * 1000 for on in (True, False))
    print(f"{layers.available()}")
    print(f"a job: {confined:.1f} ms confined, {free:.1f} ms without; {(confined / free - 1) * 100:+.1f} %")


async def _measure(zygotes: dict[bool, Zygote], rounds: int) -> dict[bool, list[float]]:
    found: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as scratch:
        shop = await Shop.open(Path(scratch))
        await shop.publish_bytes("m", b"model" * 1000)
        data = DataDir(Path(scratch) / "data")
        async with ScriptedOrigin(shop.path) as origin:
            with data.lock() as lock:
                database = Database.open(data)
                job = Job("m", None, origin.url, str(data.root), trust_root=str(shop.trust))
                for each in range(rounds + 1):
                    for on in (True, False) if each % 2 else (False, True):
                        started, preparer = time.perf_counter(), ChildPreparer(lock, zygote=zygotes[on])
                        await preparer.prepare(job, lambda event: None)
                        if each:  # the first round installs
                            found[on].append(time.perf_counter() - started)
                        await preparer.close()
                database.close()
    for zygote in zygotes.values():
        zygote.close()
    return found


if __name__ == "__main__":
    main()
