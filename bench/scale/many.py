"""Many models, many versions: what publishing one more costs in stores of growing size. `python -m bench.scale.many`.

Stores are filled by signing versions (as publishing does, without encoding); then a model of 3 KB is really published,
its second version too, and withdrawn. Counted are the requests that a store behind HTTP would get, the bytes of them
both ways, and processor seconds of this process, each the least of several runs: the work is the same, noise only adds.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.scale import growth
from modelsync_protocol import trust
from modelsync_server.publish.listing import list_models
from modelsync_server.publish.publisher import publish
from modelsync_server.publish.verifier import verify
from modelsync_server.retention.collecting import collect
from modelsync_server.retention.policy import Policy
from modelsync_server.retention.retaining import plan
from modelsync_server.store import MemoryStore
from modelsync_server.trust import NewTarget, Repository, initialise
from tests.support.stores import CountingStore
from tests.support.trust_world import digest_of

_SIZES = {"quick": ((0, 1), (20, 2), (60, 2)), "default": ((0, 1), (100, 10), (1000, 10), (1000, 100))}
_SIZES["full"] = (*_SIZES["default"], (4000, 100))
_RUNS = 5


class _Shelves(MemoryStore):
    """Objects in memory, listed by prefix as a Blob container or a folder is: without looking at all others."""

    def __init__(self) -> None:
        super().__init__()
        self._paths: list[str] = []

    async def create(self, path: str, source: bytes | Path) -> None:
        await super().create(path, source)
        insort(self._paths, path)

    async def delete(self, path: str) -> None:
        place = bisect_left(self._paths, path)
        if path in self._paths[place : place + 1]:
            del self._paths[place]
        await super().delete(path)

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        found = []
        for place in range(bisect_left(self._paths, prefix), len(self._paths)):
            if not self._paths[place].startswith(prefix):
                break
            found.append((self._paths[place], len(self.objects[self._paths[place]])))
        return found


class _Cost:
    """Requests, bytes both ways and processor seconds of what ran last; seconds are the least of all runs."""

    def __init__(self) -> None:
        self.requests, self.bytes, self.seconds = 0, 0, float("inf")

    async def of(self, store: CountingStore, work: Callable[[], Awaitable[object]]) -> None:
        calls, moved, started = store.requests, store.bytes, time.process_time()
        await work()
        self.seconds = min(self.seconds, time.process_time() - started)
        self.requests, self.bytes = store.requests - calls, store.bytes - moved


async def _filled(folder: Path, models: int, versions: int) -> _Shelves:
    store = _Shelves()
    await initialise(store, str(folder / "keys"))
    repository = await Repository.open(store, str(folder / "keys"))
    for number in range(models):
        name = f"other-{number:05d}"
        await repository.add_targets(
            [NewTarget(name, version, digest_of(name, version), 1000) for version in range(1, versions + 1)]
        )
    return store


async def _one(folder: Path, models: int, versions: int) -> dict[str, _Cost]:
    store = CountingStore(await _filled(folder, models, versions))
    keys = str(folder / "keys")
    path = folder / "model.bin"
    first, second, back, listed = _Cost(), _Cost(), _Cost(), _Cost()
    for run in range(_RUNS):
        data = bytearray(random.Random(run).randbytes(3000))
        path.write_bytes(data)
        one_more = partial(publish, store, keys, f"new-{run}", path)
        await first.of(store, one_more)
        data[100:108] = b"changed!"
        path.write_bytes(data)
        await second.of(store, one_more)

        async def withdraw(name: str = f"new-{run}") -> None:
            await (await Repository.open(store, keys)).withdraw(name, 2)

        await back.of(store, withdraw)
    await listed.of(store, lambda: _catalogue(store))
    return {"publish": first, "update": second, "withdraw": back, "catalogue": listed}


async def _catalogue(store: CountingStore) -> None:
    from modelsync_server.trust import read_catalogue

    await read_catalogue(store)


_UPKEEP = {"quick": (4, 8, 16), "default": (10, 100, 1000), "full": (10, 100, 1000)}
_SAMPLE = "5"


async def _upkeep(folder: Path, counts: Sequence[int]) -> dict[str, list[list[float]]]:
    """What keeping a store costs by how many models it has, each with two really published versions and an update:
    requests and processor seconds of `list`, `refresh`, `verify --sample 5`, `gc` and `retain --keep 1`, by name."""
    curves: dict[str, list[list[float]]] = {}
    inner, keys = _Shelves(), str(folder / "upkeep-keys")
    await initialise(inner, keys)
    path, filled = folder / "upkeep.bin", 0
    for count in counts:
        for number in range(filled, count):
            data = bytearray(random.Random(number).randbytes(3000))
            for change in (b"", b"changed!"):
                data[100 : 100 + len(change)] = change
                path.write_bytes(data)
                await publish(inner, keys, f"m-{number}", path)
        filled = count
        store = CountingStore(inner)
        refresh = (await Repository.open(store, keys)).refresh
        kinds: dict[str, Callable[[], Awaitable[object]]] = {
            "list": partial(list_models, store),
            "refresh": refresh,
            "verify_sample": partial(verify, store, _SAMPLE, seed=1),
            "gc": partial(collect, store, dry_run=True),
            "retain": partial(plan, store, Policy(keep=1), {}),
        }
        for name, work in kinds.items():
            cost = _Cost()
            await cost.of(store, work)
            curves.setdefault(f"{name}_requests", []).append([count, cost.requests])
            curves.setdefault(f"{name}_seconds", []).append([count, round(cost.seconds, 4)])
    return curves


def measure(scale: str = "default", scratch: Path | None = None) -> dict[str, Any]:
    """Curves over the number of versions in the store. `versions` is what is held: publishing by processor seconds."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        found = {}
        for models, versions in _SIZES[scale]:
            here = Path(folder) / f"{models}-{versions}"
            here.mkdir()
            found[models * versions or 1] = asyncio.run(_one(here, models, versions))
        upkeep = asyncio.run(_upkeep(Path(folder), _UPKEEP[scale]))
    curves: dict[str, list[list[float]]] = {"versions": [[at, cost["publish"].seconds] for at, cost in found.items()]}
    for name in ("publish", "update", "withdraw", "catalogue"):
        curves[f"{name}_requests"] = [[at, cost[name].requests] for at, cost in found.items()]
        curves[f"{name}_bytes"] = [[at, cost[name].bytes] for at, cost in found.items()]
        curves[f"{name}_seconds"] = [[at, cost[name].seconds] for at, cost in found.items()]
    curves |= {f"{name} by models": curve for name, curve in upkeep.items()}
    first, last = next(iter(found.values())), list(found.values())[-1]
    values = {
        f"{name}_{what}_ratio": getattr(last[name], what) / getattr(first[name], what)
        for name in ("publish", "update", "withdraw")
        for what in ("requests", "bytes", "seconds")
    }
    values |= {f"{name}_exponent": growth.exponent([(x, y) for x, y in curve]) for name, curve in upkeep.items()}
    note = f"The emptiest store has the model in the shared chain, those of over {trust.SHARED_MODELS} in its own."
    return {"values": values, "curves": curves, "notes": [note]}


if __name__ == "__main__":
    import sys

    print(json.dumps(measure(sys.argv[1] if len(sys.argv) > 1 else "default"), indent=1))
