"""What the trust store is asked with and answers: the way to the origin, and what signed metadata says. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelsync_protocol.errors import UnreachableError

Fetch = Callable[[str, int], bytes]
"""`fetch(path, max_length)` → the whole object at `path`, relative to the origin, of at most `max_length` bytes.

Raises ObjectMissing for 404, RefusedError if the object is longer (it must stop reading there), and
UnreachableError for every other trouble.
"""


class ObjectMissing(UnreachableError):
    """The origin answers that it has no such object."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What signed metadata says of one model. `digest` and `length` (bytes) are the manifest's.

    `newest` is the highest version that is signed. `versions` maps the known live versions to manifest digests:
    the ten newest, and older ones if the archive had to be read. `offers` are unsigned hints (empty without a
    bundle). `issued` is when the timestamp was signed, Unix seconds. `requires` is what the version requires of a
    device.
    """

    version: int
    digest: str
    length: int
    newest: int
    versions: Mapping[int, str]
    withdrawn: frozenset[int]
    offers: bytes
    issued: int
    requires: Mapping[str, str] = field(default_factory=dict)
