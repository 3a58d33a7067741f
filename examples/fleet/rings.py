"""The fleet's make-up: its rings, how many devices each has, how many are daemons. Asks for the memory's size."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_DAEMON_BYTES = 100_000_000
_INFERENCE_BYTES = 250_000_000
_REST_BYTES = 700_000_000
"""A daemon at work, one more process family that infers, and all else (hub, origin, page, clients): upper bounds."""


@dataclass(slots=True)
class Part:
    """A ring. `where` chooses it at the hub; `daemons` of its `devices` are daemons, which infer if `infers`."""

    name: str
    where: str
    devices: int
    daemons: int
    infers: bool = False
    ids: list[str] = field(default_factory=list)


def fleet(small: bool, memory: int | None = None) -> list[Part]:
    """Three rings of 30 devices together (`small`: 9), with eight daemons if so much memory is available, in bytes.

    Three daemons infer in ring two whatever there is: it is they who refuse the bad release.
    """
    memory = available() if memory is None else memory
    spare = memory - _REST_BYTES - 3 * (_DAEMON_BYTES + _INFERENCE_BYTES)
    many = spare >= 5 * _DAEMON_BYTES
    sizes = ((2, 1), (4, 1), (3, 1)) if small else ((4, 2 if many else 0), (10, 3), (16, 3 if many else 0))
    (canary, canary_daemons), (north, north_daemons), (rest, rest_daemons) = sizes
    return [
        Part("canary", "tags.ring = 'canary'", canary, canary_daemons),
        Part("north", "tags.ring = 'north'", north, north_daemons, infers=True),
        Part("rest", "*", rest, rest_daemons),
    ]


def available() -> int:
    """Bytes of memory that programs could still take; 0 where the kernel does not say."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
