"""Conditions over JSON documents: AND, OR, NOT, comparisons, IN, NIN, functions. Parsed once, evaluated often; no I/O.

What is undefined stays undefined through NOT and comparisons, as in Azure's dialect: a missing property satisfies
neither `a = 1` nor `a != 1` nor `NOT (a = 1)`. FALSE AND undefined is false, TRUE OR undefined is true.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from modelsync_server.query.tokens import Cursor, cut, refused, unquote

MAX_DEPTH = 40
"""Parentheses and NOTs inside each other."""


class _Missing:
    def __repr__(self) -> str:
        return "undefined"


MISSING: Final = _Missing()
"""The value of a path that leads nowhere."""

Value = Callable[[Any], Any]
"""A document's value for an expression, or MISSING."""
Condition = Callable[[Any], bool | None]
"""True, False, or None for undefined."""
Path = tuple[str, ...]

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TESTS: Mapping[str, Callable[[Any], bool]] = {
    "is_null": lambda value: value is None,
    "is_bool": lambda value: isinstance(value, bool),
    "is_number": _is_number,
    "is_string": lambda value: isinstance(value, str),
    "is_object": lambda value: isinstance(value, dict),
    "is_array": lambda value: isinstance(value, list),
    "is_primitive": lambda value: value is None or isinstance(value, bool | int | float | str),
}
_TEXT_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "starts_with": str.startswith,
    "startswith": str.startswith,
    "ends_with": str.endswith,
    "endswith": str.endswith,
    "contains": operator.contains,
}


def parse_condition(text: str) -> Condition:
    """A condition that stands alone, such as a target condition; HubError 400 if it is not understood."""
    cursor = Cursor(cut(text))
    condition = read_condition(cursor)
    if cursor.next.kind != "end":
        raise cursor.unexpected("AND, OR or the end")
    return condition


def read_condition(cursor: Cursor, depth: int = 0) -> Condition:
    """Read a condition: ORs of ANDs."""
    if depth > MAX_DEPTH:
        raise refused(f"it nests deeper than {MAX_DEPTH} levels.")
    parts = [_conjunction(cursor, depth)]
    while cursor.word("or"):
        parts.append(_conjunction(cursor, depth))
    return parts[0] if len(parts) == 1 else _any(parts)


def _conjunction(cursor: Cursor, depth: int) -> Condition:
    parts = [_negation(cursor, depth)]
    while cursor.word("and"):
        parts.append(_negation(cursor, depth))
    return parts[0] if len(parts) == 1 else _all(parts)


def _negation(cursor: Cursor, depth: int) -> Condition:
    if depth > MAX_DEPTH:
        raise refused(f"it nests deeper than {MAX_DEPTH} levels.")
    if cursor.word("not"):
        inner = _negation(cursor, depth + 1)
        return lambda document: None if (held := inner(document)) is None else not held
    if cursor.sign("("):
        inner = read_condition(cursor, depth + 1)
        cursor.need_sign(")")
        return inner
    return _predicate(cursor)


def _predicate(cursor: Cursor) -> Condition:
    if cursor.next.is_word("is_defined", *_TESTS, *_TEXT_TESTS):
        return _function(cursor, cursor.take().text.lower())
    left = _operand(cursor)
    if cursor.word("in"):
        return _membership(cursor, left, wanted=True)
    if cursor.word("nin"):
        return _membership(cursor, left, wanted=False)
    sign = cursor.sign(*_COMPARISONS)
    if sign is None:
        raise cursor.unexpected("an operator (= != <> < <= > >= IN NIN)")
    right, compare = _operand(cursor), _COMPARISONS[sign]
    return lambda document: _compared(compare, left(document), right(document))


def _function(cursor: Cursor, name: str) -> Condition:
    cursor.need_sign("(")
    if name == "is_defined":
        path = read_path(cursor)
        cursor.need_sign(")")
        return lambda document: lookup(document, path) is not MISSING
    value = _operand(cursor)
    if name in _TESTS:
        cursor.need_sign(")")
        test = _TESTS[name]
        return lambda document: (found := value(document)) is not MISSING and test(found)
    cursor.need_sign(",")
    part = _operand(cursor)
    cursor.need_sign(")")
    text_test = _TEXT_TESTS[name]

    def holds(document: Any) -> bool | None:
        whole, piece = value(document), part(document)
        return text_test(whole, piece) if isinstance(whole, str) and isinstance(piece, str) else None

    return holds


def _membership(cursor: Cursor, left: Value, *, wanted: bool) -> Condition:
    if cursor.next.kind == "name":
        path = read_path(cursor)

        def in_array(document: Any) -> bool | None:
            found, members = left(document), lookup(document, path)
            if found is MISSING or not isinstance(members, list):
                return None
            return any(_same(found, member) for member in members) is wanted

        return in_array
    cursor.need_sign("[")
    literals: list[Any] = []
    while not cursor.sign("]"):
        if literals:
            cursor.need_sign(",")
        literals.append(read_literal(cursor))
    # A list of a thousand ids is looked up, not walked; true is not 1 here.
    members = {(isinstance(literal, bool), literal) for literal in literals}

    def in_list(document: Any) -> bool | None:
        found = left(document)
        if found is MISSING or isinstance(found, dict | list):
            return None
        return ((isinstance(found, bool), found) in members) is wanted

    return in_list


def _operand(cursor: Cursor) -> Value:
    if cursor.next.kind == "name" and not cursor.next.is_word("true", "false", "null"):
        path = read_path(cursor)
        return lambda document: lookup(document, path)
    literal = read_literal(cursor)
    return lambda document: literal


def read_literal(cursor: Cursor) -> Any:
    """A string, number, true, false or null."""
    token = cursor.next
    if token.kind == "text":
        return unquote(cursor.take().text)
    if token.kind == "number" or token.is_word("true", "false", "null"):
        try:
            value = json.loads(token.text.lower())
        except ValueError:  # a leading zero, or more digits than Python turns into an integer
            raise cursor.unexpected("a number as JSON writes it") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise cursor.unexpected("a number of at most 1.8e308")
        cursor.take()
        return value
    raise cursor.unexpected("a property or a literal")


def read_path(cursor: Cursor) -> Path:
    """A property: names joined by dots; ['any key'] and [[any key]] for keys that are no names."""
    if cursor.next.kind != "name":
        raise cursor.unexpected("a property")
    steps = [cursor.take().text]
    while True:
        dotted = cursor.sign(".") is not None
        if cursor.next.kind == "double":
            steps.append(cursor.take().text[2:-2])
        elif cursor.sign("["):
            if cursor.next.kind != "text":
                raise cursor.unexpected("a quoted key")
            steps.append(unquote(cursor.take().text))
            cursor.need_sign("]")
        elif dotted:
            if cursor.next.kind not in ("name", "number"):
                raise cursor.unexpected("a property")
            steps.append(cursor.take().text)
        else:
            return tuple(steps)


def lookup(document: Any, path: Path) -> Any:
    """The value at a path, or MISSING."""
    for step in path:
        if not isinstance(document, dict) or step not in document:
            return MISSING
        document = document[step]
    return document


def _compared(compare: Callable[[Any, Any], bool], left: Any, right: Any) -> bool | None:
    if left is MISSING or right is MISSING:
        return None
    if (
        isinstance(left, dict | list)
        or isinstance(right, dict | list)
        or isinstance(left, bool) != isinstance(right, bool)
    ):
        return False
    try:
        return compare(left, right)
    except TypeError:
        return False


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _all(parts: list[Condition]) -> Condition:
    def holds(document: Any) -> bool | None:
        result: bool | None = True
        for part in parts:
            held = part(document)
            if held is False:
                return False
            if held is None:
                result = None
        return result

    return holds


def _any(parts: list[Condition]) -> Condition:
    def holds(document: Any) -> bool | None:
        result: bool | None = False
        for part in parts:
            held = part(document)
            if held:
                return True
            if held is None:
                result = None
        return result

    return holds
