"""The candidates that need a newer version of the update's format; each is tried, and the publisher keeps the smallest.

A new encoding adds itself here: a function of base, target, the update as version 1 has it, and a pool, that gives an
update or None where it can do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor

from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.tree_candidate import encode_trees
from modelsync_server.plain.candidate import update_through_views

Candidate = Callable[[Source, Source, Encoded, Executor], Encoded | None]


def _through_views(base: Source, target: Source, oldest: Encoded, pool: Executor) -> Encoded | None:
    return update_through_views(base, target, pool)


CANDIDATES: tuple[Candidate, ...] = (_through_views, encode_trees)


def newer_updates(base: Source, target: Source, oldest: Encoded, pool: Executor) -> Iterator[Encoded]:
    """Yield what the candidates make of `target` for a device that holds `base`."""
    for candidate in CANDIDATES:
        made = candidate(base, target, oldest, pool)
        if made is not None:
            yield made
