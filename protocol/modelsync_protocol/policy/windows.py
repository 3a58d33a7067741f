"""Times of day during which fetching is allowed. No I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WINDOW = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])")


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day during which fetching is allowed, minutes after local midnight; may span midnight."""

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """Whether `minute` after midnight lies inside."""
        if self.begin <= self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def parse_window(text: object) -> Window:
    """Read `HH:MM-HH:MM`; raises ValueError with a sentence."""
    match = _WINDOW.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r:.60} is not a time window; write it as 22:00-06:00.")
    begin, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if begin > 1440 or end > 1440 or begin % 1440 == end:
        raise ValueError(f"{text!r:.60} is not a time window; write it as 22:00-06:00.")
    return Window(begin % 1440, end)


NEVER = Window(0, 0)
"""A window that no minute lies in."""
