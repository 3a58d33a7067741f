"""Offers: what the newest versions cost from which base, carried beside the trust metadata in a bundle. No I/O here.

Offers are hints for the plan and the budget, not trust: what they lead to is checked like everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_varint

LISTED_VERSIONS = 3
"""Only so many of the newest versions are listed: every check-in carries them."""

_BASE_PREFIX_BYTES = 4
_MAX_BASES = 64
_MAX_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class Offer:
    """Price list of one version: bytes of a first install, and of the update object from each base.

    `updates` maps `base_key` of the base's manifest digest to the update object's size in bytes.
    """

    install_bytes: int
    updates: Mapping[str, int] = field(default_factory=dict)
    newer: Mapping[str, int] = field(default_factory=dict)
    """The same for update objects of the newest version of the format, where there are such (FORMAT.md §12.4)."""

    def update_bytes(self, base_digest: str) -> int | None:
        """Size of the update object from that base, or None if there is none."""
        return self.updates.get(base_key(base_digest))


def base_key(base_digest: str) -> str:
    """How offers name a base: the first 8 hex digits of its manifest's digest."""
    return base_digest[: 2 * _BASE_PREFIX_BYTES]


def encode(offers: Mapping[int, Offer]) -> bytes:
    """Return the section for the given versions, newest first, at most LISTED_VERSIONS of them."""
    out = bytearray()
    listed = sorted(offers, reverse=True)[:LISTED_VERSIONS]
    write_varint(out, len(listed))
    for version in listed:
        offer = offers[version]
        write_varint(out, version)
        write_varint(out, offer.install_bytes)
        bases = sorted(offer.updates)[:_MAX_BASES]
        write_varint(out, len(bases))
        for base in bases:
            out += bytes.fromhex(base_key(base))
            write_varint(out, offer.updates[base])
    return bytes(out)


def decode(data: bytes) -> dict[int, Offer]:
    """Read the section; empty bytes are no offers. Raises FormatError on anything odd."""
    if not data:
        return {}
    reader = Reader(data, "the offers")
    result: dict[int, Offer] = {}
    above = caps.MAX_VERSION + 1
    for _ in range(reader.varint(LISTED_VERSIONS)):
        version = reader.varint(caps.MAX_VERSION)
        if not 0 < version < above:
            raise FormatError("the offers do not list versions from the newest down.")
        above = version
        install_bytes = reader.varint(_MAX_BYTES)
        updates: dict[str, int] = {}
        for _ in range(reader.varint(_MAX_BASES)):
            base = bytes(reader.take(_BASE_PREFIX_BYTES)).hex()
            if updates and base <= next(reversed(updates)):
                raise FormatError("the offers do not list bases in ascending order.")
            updates[base] = reader.varint(_MAX_BYTES)
        result[version] = Offer(install_bytes, updates)
    reader.end()
    return result
