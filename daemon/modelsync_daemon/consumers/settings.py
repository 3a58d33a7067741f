"""Reads the tables that describe applications: `[models.NAME.activate]` and `[consumers.LABEL]`. It starts nothing.

What is wrong is a UsageError that names the table and the key, before anything runs.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from modelsync_daemon.consumers.actions import (
    Action,
    CommandAction,
    DbusAction,
    HttpAction,
    SignalAction,
    UnitAction,
)
from modelsync_daemon.consumers.checks import Check, CommandCheck, HttpCheck, ProcessCheck, SocketCheck, UnitCheck
from modelsync_daemon.consumers.consumer import Plan
from modelsync_daemon.consumers.http_request import HttpRequest
from modelsync_daemon.consumers.programs import Bounds
from modelsync_daemon.consumers.templates import check_places
from modelsync_protocol.errors import UsageError

KINDS = ("systemd", "command", "http", "signal", "dbus")
VERBS = ("reload", "restart", "try-restart", "reload-or-restart")

_MAX_SECONDS = 3600
_BOUNDS = ("confined", "read", "write", "network", "environment")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.(service|socket|target|timer|path|scope|slice)")
_BUS_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_.:-]{0,254}")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")

_T = TypeVar("_T")


class Reader:
    """Reads one file's tables; `base`: the folder that relative paths are relative to; `required`: its
    require_confinement."""

    def __init__(self, base: Path, required: bool = False) -> None:
        self._base, self._required = base, required

    def plan(self, where: str, table: Any) -> Plan:
        """An application's table. Raises UsageError."""
        _known(where, table, (*KINDS, *_BOUNDS, "seconds", "check", "ready"))
        kinds = [kind for kind in KINDS if kind in table]
        if len(kinds) != 1:
            raise UsageError(
                f"{where} needs exactly one of {', '.join(KINDS)}, and has {' and '.join(kinds) or 'none'}."
            )
        seconds = _seconds(where, table, "seconds", 30.0)
        action, seen = self._action(f"{where}.{kinds[0]}", kinds[0], table)
        check, check_seconds = None, 30.0
        if "check" in table:
            checks, check_seconds, _ = self._checks(f"{where}.check", table["check"], ("command", "http"))
            if len(checks) != 1:
                raise UsageError(f"{where}.check needs exactly one of command and http.")
            check = checks[0]
        ready: tuple[Check, ...] = ()
        ready_seconds, every = 30.0, 2.0
        if "ready" in table:
            words = ("command", "http", "socket", "unit")
            ready, ready_seconds, every = self._checks(f"{where}.ready", table["ready"], words)
        return Plan(action, seconds, check, check_seconds, (*seen, *ready), ready_seconds, every)

    def _action(self, where: str, kind: str, table: Mapping[str, Any]) -> tuple[Action, tuple[Check, ...]]:
        """How to tell it, and what can be seen of it without being told how."""
        value = table[kind]
        if kind != "command" and (wrong := [key for key in _BOUNDS if key in table]):
            raise UsageError(f"{where}: {', '.join(wrong)} are for a command.")
        if kind == "systemd":
            verb, _, unit = value.partition(" ") if isinstance(value, str) else ("", "", "")
            if verb not in VERBS or not _is_unit(unit):
                raise UsageError(
                    f"{where} = {value!r:.80} is not of the form 'restart NAME.service' ({', '.join(VERBS)})."
                )
            return UnitAction(verb, unit), (UnitCheck(unit),)
        if kind == "command":
            return CommandAction(_argv(where, value), self._bounds(where, table)), ()
        if kind == "http":
            items = value if isinstance(value, list) and value else [value]
            return HttpAction(tuple(self._request(where, item, "POST") for item in items)), ()
        return self._signal(where, value) if kind == "signal" else (_dbus(where, value), ())

    def _signal(self, where: str, value: Any) -> tuple[Action, tuple[Check, ...]]:
        _known(where, value, ("signal", "unit", "pidfile", "program"))
        name = _typed(where, value, "signal", str, "HUP")
        number = signal.Signals.__members__.get(f"SIG{name.upper().removeprefix('SIG')}")
        if number is None:
            raise UsageError(f"{where}: {name!r:.40} is no signal; write it as HUP or USR1.")
        if number in (signal.SIGKILL, signal.SIGSTOP):
            raise UsageError(f"{where}: {number.name} can't make a program load a model; restart its unit instead.")
        unit = _typed(where, value, "unit", str, None)
        if ("pidfile" in value) == (unit is not None) or (unit is not None and "program" in value):
            raise UsageError(f"{where} needs a unit, or a pidfile (with program, the name that its process must have).")
        if unit is not None:
            if not _is_unit(unit):
                raise UsageError(f"{where}: {unit!r:.80} is not a unit such as detector.service.")
            return SignalAction(number, unit=unit), (UnitCheck(unit),)
        pidfile, program = self._path(where, value, "pidfile"), _typed(where, value, "program", str, None)
        return SignalAction(number, pidfile=pidfile, program=program), (ProcessCheck(pidfile, program),)

    def _checks(self, where: str, table: Any, words: Sequence[str]) -> tuple[tuple[Check, ...], float, float]:
        _known(where, table, (*words, *_BOUNDS, "seconds", "every"))
        checks: list[Check] = []
        if "command" in table:
            checks.append(CommandCheck(_argv(f"{where}.command", table["command"]), self._bounds(where, table)))
        elif wrong := [key for key in _BOUNDS if key in table]:
            raise UsageError(f"{where}: {', '.join(wrong)} are for a command.")
        if "http" in table:
            checks.append(HttpCheck(self._request(f"{where}.http", table["http"], "GET")))
        if "socket" in table:
            checks.append(SocketCheck(_address(where, table["socket"])))
        if "unit" in table:
            if not _is_unit(table["unit"]):
                raise UsageError(f"{where}: {table['unit']!r:.80} is not a unit such as detector.service.")
            checks.append(UnitCheck(table["unit"]))
        if not checks:
            raise UsageError(f"{where} looks at nothing; it needs one of {', '.join(words)}.")
        return tuple(checks), _seconds(where, table, "seconds", 30.0), _seconds(where, table, "every", 2.0)

    def _request(self, where: str, table: Any, method: str) -> HttpRequest:
        _known(where, table, ("url", "method", "headers", "body", "json", "status", "contains", "expect", "unix"))
        url = _typed(where, table, "url", str, "")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username is not None:
            raise UsageError(f"{where} needs a url such as http://127.0.0.1:8000/reload, without a user in it.")
        method = _typed(where, table, "method", str, method).upper()
        if method not in _METHODS:
            raise UsageError(f"{where}: method {method!r:.20} is none of {', '.join(_METHODS)}.")
        if "body" in table and "json" in table:
            raise UsageError(f"{where} has a body and json; json is a table that is sent as JSON, body any other text.")
        status = table.get("status", [])
        status = status if isinstance(status, list) else [status]
        if not all(type(number) is int and 100 <= number <= 599 for number in status):
            raise UsageError(f"{where}: status is a number such as 200, or a list of them.")
        check_places(where, table)
        return HttpRequest(
            url,
            method,
            _texts(where, table, "headers"),
            _typed(where, table, "body", str, None),
            table.get("json"),
            tuple(status),
            _typed(where, table, "contains", str, None),
            _texts(where, table, "expect"),
            self._path(where, table, "unix") if "unix" in table else None,
        )

    def _bounds(self, where: str, table: Mapping[str, Any]) -> Bounds:
        return Bounds(
            confined=_typed(where, table, "confined", bool, True),
            read=self._paths(where, table, "read"),
            write=self._paths(where, table, "write"),
            network=_typed(where, table, "network", bool, False),
            environment=_texts(where, table, "environment"),
            required=self._required,
        )

    def _paths(self, where: str, table: Mapping[str, Any], key: str) -> tuple[Path, ...]:
        items = table.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
            raise UsageError(f"{where}: {key} is a list of paths.")
        return tuple(self._base / item for item in items)

    def _path(self, where: str, table: Mapping[str, Any], key: str) -> Path:
        text = _typed(where, table, key, str, "")
        if not text or "\0" in text:
            raise UsageError(f"{where}: {key} is a path.")
        return self._base / str(text)


def _dbus(where: str, value: Any) -> Action:
    keys = ("destination", "path", "interface", "member")
    _known(where, value, (*keys, "signature", "arguments"))
    destination, path, interface, member = (_typed(where, value, key, str, "") for key in keys)
    if not path.startswith("/") or not all(map(_BUS_NAME.fullmatch, (destination, interface, member))):
        raise UsageError(f"{where} needs destination, path, interface and member, as busctl takes them.")
    arguments, signature = value.get("arguments", []), _typed(where, value, "signature", str, "")
    if not isinstance(arguments, list) or bool(arguments) != bool(signature):
        raise UsageError(f"{where}: arguments is a list of texts, and signature says their types, as in busctl.")
    check_places(where, arguments)
    return DbusAction(destination, path, interface, member, signature, tuple(map(str, arguments)))


def _argv(where: str, value: Any) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(item, str) and "\0" not in item for item in value)
    ):
        raise UsageError(
            f'{where} is not a list of a program and its arguments, as ["/usr/local/bin/reload", "{{path}}"].'
        )
    if not value[0].startswith("/") or "{" in value[0]:
        raise UsageError(
            f"{where}: the program {value[0]!r:.80} is not an absolute path; there is no shell to find it."
        )
    check_places(where, value)
    return tuple(value)


def _address(where: str, value: Any) -> str:
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        if value.startswith("/") or (host and port.isdecimal() and 0 < int(port) < 65536):
            return value
    raise UsageError(f"{where}: socket is host:port or a socket's absolute path.")


def _is_unit(value: Any) -> bool:
    return isinstance(value, str) and _UNIT.fullmatch(value) is not None and not value.startswith("-")


def _known(where: str, table: Any, keys: Sequence[str]) -> None:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} is not a table.")
    unknown = sorted(map(str, table.keys() - set(keys)))
    if unknown:
        raise UsageError(f"{where} has unknown keys: {', '.join(unknown)}; known are {', '.join(keys)}.")


def _typed(where: str, table: Mapping[str, Any], key: str, kind: type[_T], default: Any) -> Any:
    value = table.get(key, default)
    if value is not default and type(value) is not kind:
        wanted = {str: "a text", bool: "true or false"}[kind]
        raise UsageError(f"{where}: {key} = {value!r:.40} is not {wanted}.")
    return value


def _texts(where: str, table: Mapping[str, Any], key: str) -> Mapping[str, str] | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(type(item) is str and "\0" not in item for item in value.values()):
        raise UsageError(f"{where}: {key} is a table of texts.")
    return dict(value)


def _seconds(where: str, table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key, default)
    if type(value) not in (int, float) or not 0 < value <= _MAX_SECONDS:
        raise UsageError(f"{where}: {key} = {value!r:.40} is not a time of at most {_MAX_SECONDS} seconds.")
    return float(value)
