"""What the answers of a run prove: which versions went together, and that each answer is its version's. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from examples.environment.edge import Answer

Pair = tuple[int, int]
"""(environment, model)"""


def pairs(answers: Iterable[Answer]) -> list[Pair]:
    """The pairs that answered, in order, each stretch once."""
    found: list[Pair] = []
    for answer in answers:
        pair = (answer.environment, answer.model)
        if answer.ok and (not found or found[-1] != pair):
            found.append(pair)
    return found


def wrong(answers: Iterable[Answer], expected: Mapping[int, Sequence[float]]) -> int:
    """How many answers are not, to the bit, what that model answered in the cloud."""
    return sum(answer.ok and list(answer.values) != list(expected[answer.model]) for answer in answers)


def longest_gap(answers: Iterable[Answer]) -> float:
    """The longest time without an answer, seconds; from the first answer on."""
    times = [answer.at for answer in answers if answer.ok]
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)
