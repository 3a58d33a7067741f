"""What reading an artifact's references gives: what it points to, what it would execute, why it is not closed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modelsync_protocol.references.tree import OutsideError, Tree, resolve, shown

_MOST = 1000
"""Of each list: a hostile file may name millions."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`file` of the artifact, the place in it (a tensor, a node), and what is there."""

    file: str
    where: str
    text: str

    def __str__(self) -> str:
        place = f"{self.where} of {self.file}" if self.where else self.file
        return f"{place}: {self.text}"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"file": self.file, "where": self.where, "text": self.text}


@dataclass(slots=True)
class Findings:
    """Grows while an artifact is read. `outside` is empty for a closed artifact."""

    tree: Tree
    formats: dict[str, str] = field(default_factory=dict)
    """File → what it is."""
    refers: list[Finding] = field(default_factory=list)
    """Files of the artifact that another one names."""
    outside: list[Finding] = field(default_factory=list)
    """What leads out of the artifact, or may: a reason to refuse it."""
    code: list[Finding] = field(default_factory=list)
    """What would be executed."""
    unreadable: list[Finding] = field(default_factory=list)
    """Model files that are damaged, so that it is not known what they hold."""

    def refuse(self, file: str, where: str, text: str) -> None:
        """Note a reason to refuse."""
        _add(self.outside, Finding(file, where, text))

    def execute(self, file: str, where: str, text: str) -> None:
        """Note something that would be executed; once for each text and place."""
        _add(self.code, Finding(file, where, text))

    def name(self, file: str, where: str, location: str, what: str, needed: int = 0) -> None:
        """`file` names `location`, relative to its folder: note where it leads. `needed`: bytes it must have."""
        folder = file.rpartition("/")[0]
        try:
            path, size = resolve(self.tree.entries, folder, location)
        except OutsideError as error:
            self.refuse(file, where, f"{what} {shown(location)} {error}.")
            return
        if needed > size:
            self.refuse(file, where, f"{what} {shown(location)} has {size} bytes, and {needed} are claimed.")
            return
        _add(self.refers, Finding(file, where, path))

    @property
    def refusal(self) -> str | None:
        """One sentence on the first reason to refuse the artifact; None if it is closed."""
        if not self.outside:
            return None
        more = len(self.outside) - 1
        tail = f" ({more} more)" if more else ""
        return (
            f"the artifact is not closed: {self.outside[0]}{tail} "
            "Put what it needs beside the model and name it relative to it."
        )


def _add(items: list[Finding], item: Finding) -> None:
    if len(items) < _MOST and (not items or items[-1] != item):
        items.append(item)
