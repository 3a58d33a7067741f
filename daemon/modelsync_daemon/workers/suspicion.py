"""Which neighbours are not to be asked for which objects again: what workers found out, and what they died of.

A worker's own judgement ends with it, and one that died can't judge: its parent keeps both in mind. In memory, no I/O.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

_KEPT_SECONDS = 6 * 3600.0
"""So long a neighbour is not asked for an object that it gave wrong: as long as copies for neighbours are kept."""

_MOST_OBJECTS, _MOST_NAME = 256, 300

Given = dict[str, set[str]]
"""Objects, as neighbours call them, and the neighbours that gave something of them."""


def read(event: Mapping[str, Any], site: Mapping[str, Any], given: Given) -> bool:
    """Take in a worker's event `neighbour` of a job with `site`; True if it says that the neighbour gave it wrong.

    ValueError, KeyError or TypeError if it is none: the worker has read what came from outside.
    """
    target, holder = str(event["object"]), event["holder"]
    if holder not in site["peers"] or len(target) > _MOST_NAME:
        raise ValueError("there is no such neighbour")
    if target in given or len(given) < _MOST_OBJECTS:
        given.setdefault(target, set()).add(holder)
    return bool(event["wrong"])


class Suspicion:
    """Objects and the neighbours that gave them wrong; `clock` gives seconds that only rise."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()

    def add(self, given: Given) -> None:
        """Ask these neighbours for these objects no more for a while."""
        for target, holders in given.items():
            _, before = self._known.pop(target, (0.0, frozenset()))
            self._known[target] = (self._clock() + _KEPT_SECONDS, before | frozenset(holders))
        while len(self._known) > _MOST_OBJECTS:
            self._known.popitem(last=False)

    def tell(self, site: Mapping[str, Any]) -> dict[str, Any]:
        """A job's `site` with what is known: its key `refused`."""
        now = self._clock()
        for target in [target for target, (until, _) in self._known.items() if until <= now]:
            del self._known[target]
        return {**site, "refused": {target: sorted(holders) for target, (_, holders) in self._known.items()}}
