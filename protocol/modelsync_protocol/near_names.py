"""What somebody may have meant by a name that is not there. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)", re.DOTALL)
_OPTION = re.compile(r"unrecognized arguments: (?P<word>-[^ =]+)")
_WORD = re.compile(r"[\w-]+")


def near(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is nearest to `word`, or None if none is near."""
    import difflib  # only when somebody erred: a device loads nothing for it

    candidates = list(known)
    folded = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def hint(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` to put behind the word, or nothing."""
    found = near(word, known)
    return "" if found is None else f" (did you mean {found!r}?)"


def near_version(version: int, known: Iterable[int]) -> str:
    """` (the nearest is 4)` to put behind a version's number, or nothing."""
    candidates = sorted(known, reverse=True)
    return f" (the nearest is {min(candidates, key=lambda n: abs(n - version))})" if candidates else ""


def argparse_hint(message: str, options: Iterable[str]) -> str:
    """`hint` for what Python's argparse complains of: a choice or command, or one of its `options`."""
    if match := _CHOICE.search(message):
        return hint(match["word"], _WORD.findall(match["known"]))
    if match := _OPTION.search(message):
        return hint(match["word"], options)
    return ""
