"""A story's result: promises, figures and the bill; for people as text, for programs as JSON. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.demo.report import Promise, kept, promises_table, write_json

Figure = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class Charge:
    """A line of the bill: `way` of updating, `what` was brought, `bytes` that it cost.

    `measured` says where the bytes were counted: a figure without such a place is no figure.
    """

    way: str
    what: str
    bytes: int
    measured: str

    def __post_init__(self) -> None:
        if self.bytes < 0 or not self.measured:
            raise ValueError("a charge has bytes from 0 and says where they were measured")


@dataclass(slots=True)
class StoryReport:
    """Everything that a story reports. `figures` are the story's own; `not_tried`: what this machine did not permit."""

    story: str
    seconds: float = 0.0
    promises: Sequence[Promise] = ()
    bill: list[Charge] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    not_tried: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every promise held; a report without promises proves nothing and is not ok."""
        return kept(self.promises)

    def to_json(self) -> dict[str, Any]:
        """The form of story-NAME.json."""
        return {
            "story": self.story,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "promises": [promise.document() for promise in self.promises],
            "bill": [asdict(charge) for charge in self.bill],
            "figures": self.figures,
            "not_tried": self.not_tried,
        }

    def write(self, folder: Path) -> None:
        """Write story-NAME.json and, the same for people, story-NAME.txt into `folder`, replacing what is there."""
        write_json(folder / f"story-{self.story}.json", self.to_json())
        with (folder / f"story-{self.story}.txt").open("w", encoding="utf-8") as file:
            self.show(Console(file=file, width=140))

    def show(self, console: Console) -> None:
        """Print bill, figures, promises and the verdict."""
        if self.bill:
            console.print(bill_table(self.bill))
        if self.figures:
            table = Table(title="Figures", title_justify="left", show_header=False)
            table.add_column()
            table.add_column(justify="right")
            for name, value in self.figures.items():
                table.add_row(escape(name), f"{value:,}" if isinstance(value, (int, float)) else escape(str(value)))
            console.print(table)
        console.print(promises_table(self.promises))
        for sentence in self.not_tried:
            console.print(f"[yellow]Not tried:[/] {escape(sentence)}")
        console.print("[green]every promise held[/]" if self.ok else "[bold red]a promise broke[/]")


def bill_table(bill: Sequence[Charge]) -> Table:
    """The bill as a table; the last column says how many times the cheapest of the same thing it is."""
    table = Table(title="The bill: bytes measured in this run", title_justify="left")
    for heading in ("what", "way"):
        table.add_column(heading)
    for heading in ("bytes", "× the least"):
        table.add_column(heading, justify="right")
    table.add_column("counted")
    for charge in bill:
        least = min((other.bytes for other in bill if other.what == charge.what and other.bytes), default=0)
        times = f"{charge.bytes / least:,.1f}" if least else "–"
        table.add_row(escape(charge.what), escape(charge.way), f"{charge.bytes:,}", times, escape(charge.measured))
    return table
