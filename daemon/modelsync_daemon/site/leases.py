"""Who of the neighbours fetches or has which object, as far as this device was told. In memory; no I/O here.

Each device keeps such a table of the objects for which it comes first (protocol site.ranked): an election without a
coordinator. Nothing in it is believed by anybody: at worst an object is fetched twice.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from modelsync_protocol.site import LEASE_SECONDS, Question, Verb

_HELD_SECONDS = 600.0
_MOST_KEYS, _MOST_KEYS_OF_ONE, _MOST_HOLDERS = 4096, 512, 64


@dataclass(frozen=True, slots=True)
class _Holder:
    until: float
    whole: bool


class Leases:
    """The table; `clock` gives seconds that only rise."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders: OrderedDict[str, dict[str, _Holder]] = OrderedDict()
        self._makers: dict[str, str] = {}
        self._made: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def take(self, question: Question, asker: str) -> str | None:
        """Take in what `asker` (an address) says or asks. For WANT, who has it; None: the asker has the lease now."""
        if question.verb is Verb.GONE:
            self._holders.get(question.key, {}).pop(asker, None)
            return None
        now = self._clock()
        if question.verb is Verb.WANT:
            found = self._find(question, asker, now)
            if found is not None:
                return found
        whole = question.verb is Verb.DONE
        holders = self._of(question.key, asker)
        if asker in holders or len(holders) < _MOST_HOLDERS:
            holders[asker] = _Holder(now + (_HELD_SECONDS if whole else LEASE_SECONDS), whole)
        return None

    def _find(self, question: Question, asker: str, now: float) -> str | None:
        holders = self._holders.get(question.key, {})
        for silent in [name for name, holder in holders.items() if holder.until <= now]:
            del holders[silent]
        usable = [name for name in holders if name != asker and name not in question.excluded]
        whole = [name for name in usable if holders[name].whole]
        if whole:  # spread those who ask over those who have it
            return min(whole, key=lambda name: hashlib.sha256(f"{asker} {name}".encode()).digest())
        return usable[0] if usable else None

    def _of(self, key: str, asker: str) -> dict[str, _Holder]:
        """The object's row, made if there is none; nobody can push out the rows of all others."""
        if key in self._holders:
            self._holders.move_to_end(key)
            return self._holders[key]
        maker = asker.rpartition(":")[0]
        if self._made.get(maker, 0) >= _MOST_KEYS_OF_ONE:
            self._forget(next(key for key in self._holders if self._makers[key] == maker))
        if len(self._holders) >= _MOST_KEYS:
            self._forget(next(iter(self._holders)))
        self._makers[key] = maker
        self._made[maker] = self._made.get(maker, 0) + 1
        self._holders[key] = {}
        return self._holders[key]

    def _forget(self, key: str) -> None:
        del self._holders[key]
        maker = self._makers.pop(key)
        self._made[maker] -= 1
        if not self._made[maker]:
            del self._made[maker]
