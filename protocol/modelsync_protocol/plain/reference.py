"""Whether this machine's zlib compresses as the reference does, told by what it makes of fixed bytes. No I/O here.

The reference is zlib as Mark Adler releases it: 1.2.11 to 1.3.1 and more give the same bytes. zlib-ng, isa-l, and the
forks of Intel, Cloudflare and Chromium do not; nor does a machine that compresses in hardware.
"""

from __future__ import annotations

import hashlib

from modelsync_protocol.plain import recipes
from modelsync_protocol.plain.recipes import Recipe, Wrapping

_SEEDS = 1024

_TRIED = (
    *(Recipe(Wrapping.RAW, level) for level in range(1, 10)),
    Recipe(Wrapping.RAW, 6, memory_level=9),
    Recipe(Wrapping.ZLIB, 9, memory_level=9),
    *(Recipe(Wrapping.RAW, 6, strategy=strategy) for strategy in range(1, 5)),
)

_REFERENCE = "6f35896047126a9c105344fd8a6c78d71512f6e93be9a99e6822d89e7dc91b45"


def is_reference() -> bool:
    """Whether members packed here get the reference's bytes. Takes some 50 ms on a PC."""
    return fingerprint() == _REFERENCE


def vector() -> bytes:
    """The fixed bytes: floats that differ in their low bytes, digits, repeats near and far, a run; more than twice
    deflate's window."""
    noise = b"".join(hashlib.sha256(b"modelsync zlib %d" % number).digest() for number in range(_SEEDS))
    floats = bytes(byte if at % 2 else 0x38 | noise[at - 1] & 7 for at, byte in enumerate(noise))
    digits = noise[: len(noise) // 2].hex().encode()
    repeats = b"".join(floats[at : at + 7 + at % 251] + digits[at : at + 3] for at in range(0, len(noise), 311))
    return floats + digits + repeats + bytes(5000) + floats[: len(floats) // 3] + repeats[::-1]


def fingerprint() -> str:
    """SHA-256 (hex) of what this zlib makes of the vector by a number of recipes."""
    data = vector()
    found = hashlib.sha256()
    for recipe in _TRIED:
        for piece in recipes.compressed(recipe, recipes.blocks(data)):
            found.update(piece)
    return found.hexdigest()
