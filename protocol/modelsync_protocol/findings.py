"""What a `doctor` found: its form, and the exit code that follows. Looking is the doctors' business; no I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad: fine; will be a problem if nobody acts; something fails now."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    `check` is its stable name, `text` one sentence, `mend` the command that mends it (None if there is nothing to
    mend, or no command does). `code` is the exit code that a command which needs this would end with.
    """

    check: str
    level: Level
    text: str
    mend: str | None = None
    code: int = 0

    def __post_init__(self) -> None:
        if (self.level is Level.PROBLEM) != (self.code != 0):
            raise ValueError("a problem has an exit code, and nothing else has one")

    def document(self) -> dict[str, Any]:
        """The finding in JSON."""
        return {"check": self.check, "level": self.level.value, "text": self.text, "mend": self.mend}


def good(check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, mend: str | None = None) -> Finding:
    """Nothing fails yet."""
    return Finding(check, Level.WARNING, text, mend)


def problem(check: str, text: str, mend: str | None, code: int) -> Finding:
    """Something fails now, with that exit code."""
    return Finding(check, Level.PROBLEM, text, mend, code)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 without a problem, else the first problem's code: doctors look at causes before consequences."""
    return next((finding.code for finding in findings if finding.level is Level.PROBLEM), 0)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings in JSON."""
    return {"ok": exit_code(findings) == 0, "findings": [finding.document() for finding in findings]}


def lines(findings: Sequence[Finding]) -> list[str]:
    """All findings for a person, plain text."""
    shown = []
    for finding in findings:
        shown.append(f"{finding.level.value:<8} {finding.check:<12} {finding.text}")
        if finding.mend:
            shown.append(f"{'':<21} mend: {finding.mend}")
    return shown
