"""Pages as data: their tables, sorted, searched, as CSV and as JSON, all alike, and their bars. No HTTP, no hub."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelsync_protocol.errors import UsageError

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
Cell = str | int | float | bool | None
Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """`name` in CSV and JSON, `label` for people. `kind`: how a cell is shown: text, number, size, money, state, error,
    flag or time. `href` leads from a row to a page."""

    name: str
    label: str = ""
    kind: str = "text"
    href: Callable[[Row], str | None] | None = None
    help: str = ""

    @property
    def title(self) -> str:
        return self.label or self.name.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a page, for people and programs. `columns` may be given by name. The first column heads its rows."""

    name: str
    columns: Sequence[Column | str]
    rows: Sequence[Row]
    empty: str = "Nothing."
    sort: str = ""
    """How it is sorted: a column's name, `-` before it for downwards; empty: as it was made."""

    @property
    def heads(self) -> tuple[Column, ...]:
        return tuple(Column(each) if isinstance(each, str) else each for each in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(head.name for head in self.heads)

    def arranged(self, sort: str, find: str) -> Table:
        """The rows that have `find` in a cell, in the order that `sort` names; UsageError for no column."""
        rows = list(self.rows)
        if find:
            wanted = find.casefold()
            rows = [row for row in rows if any(wanted in str(cell).casefold() for cell in row if cell is not None)]
        if sort:
            name = sort.removeprefix("-")
            if name not in self.names:
                raise UsageError(f"{name!r:.24} is no column of {self.name}; sort by {', '.join(self.names)}.")
            index = self.names.index(name)
            rows.sort(key=lambda row: _order(row[index]), reverse=sort.startswith("-"))
        return replace(self, rows=rows, sort=sort)

    def csv(self) -> str:
        """With a line of columns. A cell that a spreadsheet would take for a formula gets a quote before it."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.names)
        for row in self.rows:
            writer.writerow(
                ["'" + cell if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell for cell in row]
            )
        return out.getvalue()

    def document(self) -> list[dict[str, Cell]]:
        """As JSON."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


def _order(cell: Cell) -> tuple[int, float, str]:
    if cell is None or cell == "":
        return 0, 0.0, ""
    if isinstance(cell, int | float):
        return 1, float(cell), ""
    return (1, float(cell), "") if cell.isdecimal() and len(cell) < 16 else (2, 0.0, cell.casefold())


@dataclass(frozen=True, slots=True)
class View:
    """A page: its template, its title, what the template is given, its tables. `age`: of its oldest answer, seconds.

    `following` is the hub's token of the next page of a list. `status` is HTTP's.
    """

    template: str
    title: str
    data: Mapping[str, Any]
    tables: tuple[Table, ...] = ()
    age: float = 0.0
    troubles: tuple[str, ...] = field(default=())
    following: str | None = None
    status: int = 200

    def arranged(self, sort: str, find: str) -> View:
        """With its tables sorted by `TABLE.COLUMN` (or a column of any), and searched."""
        if not sort and not find:
            return self
        sign, name = ("-", sort[1:]) if sort.startswith("-") else ("", sort)
        table, dot, column = name.partition(".")
        tables = []
        known = not sort
        for each in self.tables:
            mine = sign + column if dot and each.name == table else sort if not dot and name in each.names else ""
            known = known or bool(mine)
            tables.append(each.arranged(mine, find))
        if not known:
            names = ", ".join(f"{each.name}.{column}" for each in self.tables for column in each.names)
            raise UsageError(f"{name!r:.24} is no column of this page; sort by one of {names}.")
        return replace(self, tables=tuple(tables))

    def table(self, name: str) -> Table:
        """The table of that name."""
        return next(each for each in self.tables if each.name == name)


# Bars. Colours are classes of the style sheet.

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
