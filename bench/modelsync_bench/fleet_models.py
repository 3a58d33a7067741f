"""The fleet's model: four versions in a row, the tasks that measure them, and what the daemon's plan says of them."""

from __future__ import annotations

import asyncio
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelsync_bench.checkout import EXAMPLES, make_importable
from modelsync_bench.fleet import HELD
from modelsync_bench.peers import GENERAL
from modelsync_bench.peers.port import Job
from modelsync_bench.scenarios import Task
from modelsync_server.publish.publisher import publish
from modelsync_server.publish.verifier import price_of
from modelsync_server.store import create_store, open_store
from modelsync_server.trust.initialise import initialise

FLEET = "fleet"
"""The scenario: pairs are HELD's names, with a hyphen for the blank."""

MODEL = "m"
_PEERS = GENERAL - {"oci-gzip", "oci-zstd"}
"""Images have ways of their own in the fleet: naive, and the trick."""

INDEX: dict[str, int | None] = dict(zip(HELD, (2, 1, 0, None), strict=True))
"""Which of the four versions is held."""


def pair(held: str) -> str:
    """The pair's name in the result."""
    return held.replace(" ", "-")


def versions(scratch: Path) -> tuple[Path, ...]:
    """examples/anomaly's pickles v1 and v2, and two further refits, each on 1,000 windows more; made once."""
    folder = scratch / "fleet"
    made = [folder / f"v{number}" / "model.pkl" for number in (3, 4)]
    if not (folder / ".complete").exists():
        make_importable()
        from examples.anomaly import train

        for number, path in enumerate(made, 3):
            path.parent.mkdir(parents=True, exist_ok=True)
            seen = [*train.BATCHES[2], *((1000, seed) for seed in range(3, number + 1))]
            path.write_bytes(pickle.dumps(train.fit(seen), protocol=5))
        (folder / ".complete").touch()
    return (*(EXAMPLES / "anomaly" / name / "model.pkl" for name in ("v1", "v2")), *made)


def tasks(scratch: Path) -> Iterator[Task]:
    """A job for each of HELD; the whole history is published for all but the install."""
    found = versions(scratch)
    about = "examples/anomaly's scikit-learn pickle, refitted three times; the newest of four versions is wanted"
    for held, index in INDEX.items():
        yield Task(FLEET, pair(held), Job(f"fleet-{pair(held)}", found, index), about, _PEERS)


def plan_bytes(found: tuple[Path, ...]) -> tuple[float, float, float, float]:
    """Bytes by HELD as `modelsync_protocol.plan` has them for a store in which all versions are published."""
    return asyncio.run(_plan_bytes(found))


async def _plan_bytes(found: tuple[Path, ...]) -> tuple[float, float, float, float]:
    with tempfile.TemporaryDirectory(prefix="modelsync-fleet-") as folder:
        root = Path(folder)
        url, keys = str(root / "store"), str(root / "keys")
        await initialise(create_store(url), keys)
        store = open_store(url)
        for number, path in enumerate(found):
            # A model has one file name, whatever its versions are called where they lie.
            artifact = root / str(number) / f"model{path.suffix}"
            artifact.parent.mkdir()
            artifact.write_bytes(path.read_bytes())
            await publish(store, keys, MODEL, artifact)
        one, two, three, none = [
            float((await price_of(store, MODEL, None if index is None else index + 1, len(found))).bytes)
            for index in INDEX.values()
        ]
        return one, two, three, none
