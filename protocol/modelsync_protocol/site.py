"""What neighbours of one site ask of each other: who fetches an object, and in which order they are asked. No I/O here.

The contract is FORMAT.md §16. What comes from a neighbour is hostile input: all of it is bounded before it is read.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from modelsync_protocol.errors import FormatError

LEASE_PATH = "site/v1/lease"
"""Where a device asks who fetches an object; every other path is an object's."""

NAME_HEADER = "Site"
"""The request's header that names the site: a neighbour of another site is refused."""

MAX_EXCLUDED = 8
"""Neighbours that a question may exclude."""

MAX_ANSWER_BYTES = 64
"""An answer to a question, bytes."""

LEASE_SECONDS = 15.0
"""A lease ends when its holder has been silent for so long."""

RENEW_SECONDS = 5.0
"""A holder says so often that it still fetches."""

MUTABLE_SECONDS = 30.0
"""So long a neighbour's copy of what changes in a store (trust metadata, bundles, parcels) is offered."""

_KEY = re.compile(r"[0-9a-f]{16}")
_MUTABLE = ("metadata/", "bundles/")
_OBJECT = re.compile(
    r"(?:manifests|packs)/[0-9a-f]{64}|updates/[0-9a-f]{64}/[0-9a-f]{64}\.v[1-9]"
    r"|(?:metadata|bundles)/[A-Za-z0-9][A-Za-z0-9._-]{0,200}\?o=[0-9a-f]{8}"
)


class Verb(StrEnum):
    """What a device says of an object: it wants it, still fetches it, has it whole, or gives the lease back."""

    WANT = "want"
    HOLD = "hold"
    DONE = "done"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the object with `key`; `port` is where the asker serves, `excluded` are holders to leave out."""

    verb: Verb
    key: str
    port: int
    excluded: frozenset[str] = frozenset()

    def query(self) -> dict[str, str]:
        """As the URL's query."""
        made = {"s": self.verb.value, "k": self.key, "p": str(self.port)}
        return {**made, "x": ",".join(sorted(self.excluded))} if self.excluded else made


def parse_question(query: Mapping[str, str]) -> Question:
    """Read a question from a URL's query; FormatError."""
    port, excluded = query.get("p", ""), query.get("x", "")
    if not _KEY.fullmatch(query.get("k", "")) or query.get("s") not in set(Verb):
        raise FormatError("this is no question of a neighbour.")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise FormatError("a neighbour's question names no port.")
    names = [name for name in excluded.split(",", MAX_EXCLUDED + 1) if name]
    if len(names) > MAX_EXCLUDED:
        raise FormatError("a neighbour's question excludes too many.")
    return Question(Verb(query["s"]), query["k"], int(port), frozenset(map(parse_address, names)))


def encode_answer(holder: str | None) -> bytes:
    """The answer to WANT: take it from `holder`, or fetch it (None)."""
    return b"fetch" if holder is None else b"from " + holder.encode()


def parse_answer(data: bytes) -> str | None:
    """The reverse of `encode_answer`; FormatError."""
    if data == b"fetch":
        return None
    if len(data) > MAX_ANSWER_BYTES or not data.startswith(b"from ") or not data.isascii():
        raise FormatError("a neighbour's answer is none.")
    return parse_address(data[5:].decode())


def parse_address(text: str) -> str:
    """`ip:port` or `[ip]:port` in its one spelling; FormatError. A name is none: who asks resolves it first."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise FormatError(f"{text!r:.60} is not an address with a port.")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError as error:
        raise FormatError(f"{text!r:.60} is not an address with a port.") from error
    return address(str(ip), int(port))


def address(ip: str, port: int) -> str:
    """One spelling for a neighbour's address; an IPv4 address that came by way of IPv6 is the IPv4 address."""
    found = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return f"[{found}]:{port}" if found.version == 6 else f"{found}:{port}"


def is_mutable(path: str) -> bool:
    """Whether the store replaces this object; all others are created once."""
    return path.startswith(_MUTABLE)


def target_of(path: str, origin: str) -> str:
    """What neighbours call the object at `path`: what changes is called by its origin too, for there may be several.

    `origin` is the origin's URL, of which no secret counts.
    """
    if not is_mutable(path):
        return path
    parts = urlsplit(origin)
    base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}{parts.path.rstrip('/')}"
    return f"{path}?o={hashlib.sha256(base.encode()).hexdigest()[:8]}"


def is_target(text: str) -> bool:
    """Whether this is what neighbours call an object."""
    return len(text) <= 300 and _OBJECT.fullmatch(text) is not None


def key_of(target: str) -> str:
    """Sixteen hex digits that stand for an object in questions."""
    return hashlib.sha256(b"modelsync site 1\n" + target.encode()).hexdigest()[:16]


def ranked(key: str, members: Iterable[str]) -> list[str]:
    """The members in the order in which they answer for an object (highest random weight, Thaler and Ravishankar)."""
    return sorted(members, key=lambda member: hashlib.sha256(f"{key} {member}".encode()).digest())
