"""The hub's query language, as far as the local hub speaks it: `SELECT * FROM devices[.modules] [WHERE …]`. No I/O.

Conditions: `path op literal` joined by AND; op is =, !=, <>, <, <=, > or >=; a path is deviceId, moduleId, status,
connectionState, tags.… or properties.desired|reported.…; `is_defined(path)`. Names of keywords ignore case.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelsync_server.iothub.errors import HubError

_MISSING = object()
_FORM = re.compile(
    r"\s*select\s+\*\s+from\s+(devices(?:\.modules)?)(?:\s+where\s+(.+?))?\s*;?\s*", re.IGNORECASE | re.DOTALL
)
_PATH = r"[A-Za-z_][\w$-]*(?:\.[\w$-]+|\['[^']+'\])*"
_CONDITION = re.compile(
    rf"\s*(?:is_defined\(\s*(?P<defined>{_PATH})\s*\)"
    rf"|(?P<path>{_PATH})\s*(?P<op>=|!=|<>|<=|>=|<|>)\s*(?P<literal>'[^']*'|\"[^\"]*\"|-?\d+(?:\.\d+)?|true|false|null))",
    re.IGNORECASE,
)
_STEP = re.compile(r"\['([^']+)'\]|([\w$-]+)")
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
MAX_QUERY_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class _Condition:
    path: tuple[str, ...]
    test: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query: over modules or devices, and what a twin document must satisfy."""

    modules: bool
    conditions: tuple[_Condition, ...]

    def matches(self, document: dict[str, Any]) -> bool:
        """Whether a REST twin document satisfies every condition; a missing property satisfies none."""
        return all(condition.test(_lookup(document, condition.path)) for condition in self.conditions)


def parse(text: str) -> Query:
    """Parse a query; raise HubError 400 with what this hub understands."""
    form = _FORM.fullmatch(text) if len(text) <= MAX_QUERY_CHARACTERS else None
    if form is None:
        raise _not_understood()
    conditions, rest = [], form[2]
    while rest:
        match = _CONDITION.match(rest)
        if match is None:
            raise _not_understood()
        conditions.append(_condition(match))
        rest = rest[match.end() :]
        if rest:
            joint = _AND.match(rest)
            if joint is None or joint.end() == len(rest):
                raise _not_understood()
            rest = rest[joint.end() :]
    return Query(form[1].lower() == "devices.modules", tuple(conditions))


def _condition(match: re.Match[str]) -> _Condition:
    if match["defined"]:
        return _Condition(_steps(match["defined"]), lambda value: value is not _MISSING)
    literal, compare = match["literal"], _OPERATORS[match["op"]]
    expected = literal[1:-1] if literal[0] in "'\"" else json.loads(literal.lower())

    def test(value: Any) -> bool:
        if value is _MISSING or isinstance(value, bool) != isinstance(expected, bool):
            return False
        try:
            return compare(value, expected)
        except TypeError:
            return False

    return _Condition(_steps(match["path"]), test)


def _steps(path: str) -> tuple[str, ...]:
    return tuple(bracketed or plain for bracketed, plain in _STEP.findall(path))


def _lookup(document: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if not isinstance(document, dict) or step not in document:
            return _MISSING
        document = document[step]
    return document


def _not_understood() -> HubError:
    return HubError(
        400004,
        "ArgumentInvalid",
        "The local hub understands SELECT * FROM devices[.modules] [WHERE path op literal [AND …]].",
    )
