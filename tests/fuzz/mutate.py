"""Mutates bytes the same way every time: what a fuzzer does, without coverage and without chance. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_TELLING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8, b"\x80" * 9, b"[" * 40)


def mutants(inputs: Sequence[bytes], count: int, seed: str) -> Iterator[bytes]:
    """Yield `count` mutants of `inputs` (not empty)."""
    chance = random.Random(seed)
    for number in range(count):
        data = bytearray(inputs[number % len(inputs)])
        for _ in range(1 + chance.randrange(3)):
            _mutate(data, inputs, chance)
        yield bytes(data)


def _mutate(data: bytearray, inputs: Sequence[bytes], chance: random.Random) -> None:
    place = chance.randrange(len(data) + 1)
    length = min(len(data) - place, 1 << chance.randrange(8))
    match chance.randrange(6):
        case 0 if place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        case 1:
            data[place : place + 1] = bytes([chance.randrange(256)])
        case 2:
            telling = chance.choice(_TELLING)
            data[place : place + len(telling)] = telling
        case 3:
            del data[place : place + length]
        case 4:
            data[place:place] = data[place : place + length]
        case _:
            other = chance.choice(inputs)
            start = chance.randrange(len(other) + 1)
            data[place : place + length] = other[start : start + length]
