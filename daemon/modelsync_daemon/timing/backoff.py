"""Waiting times between attempts: exponential with full jitter (AWS Architecture Blog, 2015). No I/O here."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits of 0 to `base` x 2^(attempts - 1) seconds, at most `cap` seconds; never shorter than `floor`."""

    base: float = 1.0
    cap: float = 600.0
    floor: float = 0.2

    def seconds(self, attempts: int, chance: random.Random | None = None) -> float:
        """How long to wait after the `attempts`-th failure in a row, seconds."""
        highest = min(self.cap, self.base * 2.0 ** min(max(attempts, 1) - 1, 30))
        return max(self.floor, (chance or random).uniform(0, highest))


NETWORK = Backoff()
"""After the origin could not be reached."""

HUB = Backoff(base=10.0)
"""After the hub could not be reached, or its line was lost: a hub that drops a thousand devices takes back a hundred a
second (IoT Hub's S1 quota), so that the first attempts are spread already."""

REFUSED = Backoff(base=30.0, cap=3600.0, floor=10.0)
"""After trust, damage or this machine stood in the way: only somebody's repair helps."""


def jitter(seconds: float) -> float:
    """`seconds` less up to a fifth, so that a fleet's timers drift apart."""
    return seconds * random.uniform(0.8, 1.0)
