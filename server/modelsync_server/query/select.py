"""Whole queries: `SELECT … FROM devices[.modules] [WHERE …] [GROUP BY …]`, matched, projected, counted. No I/O here.

Keywords ignore case. Source: learn.microsoft.com/azure/iot-hub/iot-hub-devguide-query-language.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modelsync_server.query.conditions import MISSING, Condition, Path, lookup, read_condition, read_path
from modelsync_server.query.tokens import Cursor, cut, refused

MAX_QUERY_CHARACTERS = 16_384
_AGGREGATES = ("count", "sum", "avg", "min", "max")


@dataclass(frozen=True, slots=True)
class Item:
    """One column: its name, its property (None for COUNT()), and the aggregate, if it is one."""

    name: str
    path: Path | None
    aggregate: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query. `items` None is SELECT *; `top` None is no limit."""

    modules: bool
    items: tuple[Item, ...] | None = None
    where: Condition | None = None
    group: tuple[Path, ...] = ()
    top: int | None = None

    @property
    def counts(self) -> bool:
        """Whether it answers with groups instead of twins."""
        return bool(self.group) or any(item.aggregate for item in self.items or ())

    def matches(self, document: dict[str, Any]) -> bool:
        """Whether a REST twin document satisfies the condition; undefined does not."""
        return self.where is None or self.where(document) is True

    def project(self, document: dict[str, Any]) -> dict[str, Any]:
        """The columns of one twin; what it does not have is left out."""
        if self.items is None:
            return document
        found = ((item.name, lookup(document, item.path or ())) for item in self.items)
        return {name: value for name, value in found if value is not MISSING}

    def grouped(self, documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """One row for each group of documents that match, in the order in which the groups appeared."""
        groups: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        for document in documents:
            if self.matches(document):
                values = [lookup(document, path) for path in self.group]
                key = json.dumps([None if v is MISSING else [v] for v in values], sort_keys=True, default=str)
                groups.setdefault(key, (document, []))[1].append(document)
        if not self.group and not groups:
            groups[""] = ({}, [])
        return [self._row(first, members) for first, members in groups.values()]

    def _row(self, first: dict[str, Any], members: list[dict[str, Any]]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for item in self.items or ():
            if item.aggregate is None:
                value = lookup(first, item.path or ())
            elif item.aggregate == "count":
                value = len(members)
            else:
                value = _aggregate(item.aggregate, [lookup(member, item.path or ()) for member in members])
            if value is not MISSING:
                row[item.name] = value
        return row


def parse(text: str) -> Query:
    """Parse a query; HubError 400 says what is not understood, and where."""
    if len(text) > MAX_QUERY_CHARACTERS:
        raise refused(f"it has {len(text)} characters; the limit is {MAX_QUERY_CHARACTERS}.")
    cursor = Cursor(cut(text))
    cursor.need_word("select")
    top = None
    if cursor.word("top"):
        if cursor.next.kind != "number" or not cursor.next.text.isdigit():
            raise cursor.unexpected("a number")
        top = int(cursor.take().text)
    items = None if cursor.sign("*") else _items(cursor)
    cursor.need_word("from")
    modules = _source(cursor)
    where = read_condition(cursor) if cursor.word("where") else None
    group: list[Path] = []
    if cursor.word("group"):
        cursor.need_word("by")
        group = [read_path(cursor)]
        while cursor.sign(","):
            group.append(read_path(cursor))
    cursor.sign(";")
    if cursor.next.kind != "end":
        raise cursor.unexpected("AND, OR, GROUP BY or the end")
    query = Query(modules, items, where, tuple(group), top)
    if query.counts:
        if items is None:
            raise refused("SELECT * and GROUP BY do not go together; name the columns.")
        loose = [item.name for item in items if item.aggregate is None and item.path not in group]
        if loose:
            raise refused(f"the column {loose[0]!r} is neither counted nor grouped by.")
    return query


def _source(cursor: Cursor) -> bool:
    cursor.need_word("devices")
    if cursor.sign("."):
        cursor.need_word("modules")
        return True
    return False


def _items(cursor: Cursor) -> tuple[Item, ...]:
    items = [_item(cursor, 0)]
    while cursor.sign(","):
        items.append(_item(cursor, len(items)))
    return tuple(items)


def _item(cursor: Cursor, number: int) -> Item:
    aggregate, path = None, None
    if cursor.next.is_word(*_AGGREGATES):
        aggregate = cursor.take().text.lower()
        cursor.need_sign("(")
        if cursor.next.kind == "name":
            path = read_path(cursor)
        elif aggregate != "count":
            raise cursor.unexpected("a property")
        cursor.need_sign(")")
    else:
        path = read_path(cursor)
    if cursor.word("as"):
        if cursor.next.kind != "name":
            raise cursor.unexpected("a name")
        return Item(cursor.take().text, path, aggregate)
    return Item(path[-1] if path and aggregate is None else f"${number + 1}", path, aggregate)


def _aggregate(name: str, values: list[Any]) -> Any:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if name == "sum":
        return sum(numbers)
    if not numbers:
        return MISSING
    if name == "avg":
        return sum(numbers) / len(numbers)
    return min(numbers) if name == "min" else max(numbers)
