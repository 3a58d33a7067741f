"""Pictures of numbers, as data for SVG in the templates: stacked bars. Colours are classes of the style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = 8


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: `x` and `width` in per mille of the bar, `colour` a number of the style sheet's palette."""

    label: str
    value: int
    x: float
    width: float
    colour: int


def bar(parts: Sequence[tuple[str, int]], whole: int | None = None) -> list[Segment]:
    """A stacked bar of `parts` (label, value), of their sum or of `whole`; more parts than colours end as one."""
    positive = [(label, value) for label, value in parts if value > 0]
    if len(positive) > COLOURS:
        rest = sum(value for _, value in positive[COLOURS - 1 :])
        positive = [*positive[: COLOURS - 1], ("others", rest)]
    total = max(sum(value for _, value in positive), whole or 0)
    segments, x = [], 0.0
    for number, (label, value) in enumerate(positive):
        width = 1000 * value / total
        segments.append(Segment(label, value, round(x, 1), round(max(width, 1.5), 1), number))
        x += width
    return segments
