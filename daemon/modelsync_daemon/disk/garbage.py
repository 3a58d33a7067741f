"""Removes what nothing refers to any more: versions without a pointer, half-built ones that nobody goes on with.

Only who holds the data directory's lock may call it. It decides by states and pointers, and fetches nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.durable import durable_unlink
from modelsync_daemon.disk.journal import Build
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.disk.states import State

PRUNABLE = (State.ACTIVE, State.ROLLED_BACK, State.QUARANTINED, State.UNSUPPORTED)
"""States in which a version that no pointer names is a left-over; elsewhere it may be what is about to be activated."""

_BUILT = (*PRUNABLE, State.IDLE)
"""States in which nothing is half-built that will be gone on with."""

REPAIR, PUSHED = ".repair", ".pushed"
"""Ends of names in incoming/ that are no model's build, but a repair's or a push."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed: versions as NAME/VERSION, and names of half-built ones."""

    versions: tuple[str, ...]
    builds: tuple[str, ...]


def collect(
    data: DataDir,
    database: Database,
    busy: Callable[[str], bool] = lambda name: False,
    staged: Callable[[str], Reference | None] = lambda name: None,
) -> Collected:
    """Remove left-overs, except of models that are `busy` and versions that are `staged`. Raises LocalError."""
    versions, builds = [], []
    for name in data.model_names():
        kept = staged(name)
        if not busy(name) and database.model(name).state in PRUNABLE:
            gone = data.prune(name, () if kept is None else (kept,))
            versions += [f"{name}/{reference.version}" for reference in gone]
    incoming = data.root / "incoming"
    for entry in sorted(incoming.iterdir()) if incoming.is_dir() else []:
        name = entry.name.removesuffix(REPAIR).removesuffix(PUSHED)
        own = name == entry.name
        if busy(name) or (own and database.model(name).state not in _BUILT):
            continue
        if entry.is_dir():
            if any(entry.iterdir()):
                builds.append(entry.name)
            Build(entry, entry.name, database).drop()
        else:
            durable_unlink(entry)
    return Collected(tuple(versions), tuple(builds))
