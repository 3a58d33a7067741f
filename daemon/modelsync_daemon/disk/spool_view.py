"""What is here of an object that comes in ranges, and what is on its way. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class View:
    """What is here of an object: `size` (None: not known yet), ranges that are here, and what a writer is about."""

    size: int | None
    here: tuple[tuple[int, int], ...]
    planned: tuple[int, int | None] | None
    cursor: int
    settled: bool

    def available(self, offset: int) -> int:
        """Bytes that are here from `offset` on without a gap."""
        for begin, end in self.here:
            if begin <= offset < end:
                return end - offset
        return 0

    @property
    def whole(self) -> bool:
        """Whether all is here."""
        return self.size is not None and (self.size == 0 or self.here == ((0, self.size),))

    def coming(self, offset: int) -> bool:
        """Whether a writer that lives is on its way to `offset`."""
        if self.planned is None:
            return False
        begin, end = self.planned
        return begin <= offset and (end is None or offset < end) and self.cursor <= offset


def merged(ranges: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """`ranges`, sorted and apart from each other, with one more."""
    if ranges and ranges[-1][0] <= begin <= ranges[-1][1]:  # what comes in order
        return [*ranges[:-1], (ranges[-1][0], max(end, ranges[-1][1]))]
    kept = [item for item in ranges if item[1] < begin or item[0] > end]
    touched = [item for item in ranges if not (item[1] < begin or item[0] > end)]
    begin, end = min([begin, *(b for b, _ in touched)]), max([end, *(e for _, e in touched)])
    return sorted([*kept, (begin, end)])
