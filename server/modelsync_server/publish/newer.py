"""The candidates that need a newer version of the update's format; each is tried, and the publisher keeps the smallest.

A new encoding adds itself here: a function of base, target, the update as version 1 has it, and a pool, that gives an
update or None where it can do nothing. All of them are tried between plain views too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial

from modelsync_server.blocks.candidate import encode_blocks
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.low_rank_candidate import encode_low_rank
from modelsync_server.encode.repeat_candidate import encode_repeats
from modelsync_server.encode.tree_candidate import encode_trees
from modelsync_server.low_rank.adapters import Adapter
from modelsync_server.plain.candidate import WORTH, update_through_views
from modelsync_server.refine.frame_refiner import refined
from modelsync_server.refine.root_candidate import encode_roots
from modelsync_server.tensors.effort import Effort

Candidate = Callable[..., Encoded | None]
"""`candidate(base, target, oldest, pool, effort=…)`."""

CANDIDATES: tuple[Candidate, ...] = (encode_trees, encode_repeats, encode_blocks, encode_low_rank, encode_roots)
_FASTEST: tuple[Candidate, ...] = (encode_trees, encode_blocks)
"""What is many times smaller where it can be used at all; Effort.FAST tries no others."""


def newer_updates(
    base: Source,
    target: Source,
    oldest: Encoded,
    pool: Executor,
    adapter: Adapter | None = None,
    effort: Effort = Effort.MAX,
) -> Iterator[Encoded]:
    """Yield what the candidates make of `target` for a device that holds `base`; `adapter`: what was merged into it."""
    smallest = oldest
    for candidate in CANDIDATES:
        if effort is Effort.FAST and candidate not in _FASTEST and not (candidate is encode_low_rank and adapter):
            continue
        if candidate is encode_low_rank:
            candidate = partial(encode_low_rank, adapter=adapter)
        made = candidate(base, target, oldest, pool, effort=effort)
        if made is not None:
            yield made
            smallest = min(smallest, made, key=lambda encoded: encoded.cost)
    if effort is Effort.FAST:
        return
    smaller = refined(base, target, smallest, pool, effort)
    if smaller is not None:
        yield smaller


def through_views(
    base: Source,
    target: Source,
    pool: Executor,
    adapter: Adapter | None = None,
    effort: Effort = Effort.MAX,
    least: int = 0,
) -> Encoded | None:
    """The smallest update between plain views, by the encodings of any version; None where less than `least` bytes are
    packed."""

    def smallest(base: Source, target: Source, pool: Executor) -> Encoded:
        oldest = smallest_update(base, target, pool, effort=effort)
        newer = newer_updates(base, target, oldest, pool, adapter, effort)
        return min([oldest, *newer], key=lambda encoded: encoded.cost)

    return update_through_views(base, target, smallest, pool, least)


def first_installs(
    nothing: Source, target: Source, pool: Executor, effort: Effort = Effort.MAX, install: int = 0
) -> Iterator[Encoded]:
    """Yield what may be a smaller first install than packs, `install` bytes; `nothing` is the empty manifest's source.

    Views spare what is compressed at the most: where that is too little of a tree, not all of it is encoded for it.
    """
    for made in (
        through_views(nothing, target, pool, effort=effort, least=round((1 - WORTH) * install)),
        encode_blocks(nothing, target, None, pool, effort),
    ):
        if made is not None:
            yield made
