"""edgeHub's routes: `FROM source [WHERE condition] INTO sink`, parsed and matched. No I/O here.

Source: learn.microsoft.com/azure/iot-edge/module-composition#declare-routes. A route's source is one of the forms in
that page's table; `*` stands at its end only. Of conditions only equality of application properties is understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from modelsync_protocol.errors import UsageError
from modelsync_server.iothub.identity import Identity

EDGE_HUB = "$edgeHub"
"""The module whose desired property `routes` holds a device's routes."""
OUTPUT, SENDER_DEVICE, SENDER_MODULE = "$.on", "$.cdid", "$.cmid"

_ROUTE = re.compile(r"\s*FROM\s+(?P<source>\S+)(?:\s+WHERE\s+(?P<where>.+?))?\s+INTO\s+(?P<sink>.+?)\s*", re.I | re.S)
_NAME = r"[^/*\s]+"
_SOURCE = re.compile(
    rf"/\*|/messages/\*|/messages/modules/\*|/messages/modules/{_NAME}/\*|/messages/modules/{_NAME}/outputs/(\*|{_NAME})"
)
_SINK = re.compile(
    rf"BrokeredEndpoint\(\s*(['\"])/modules/(?P<module>{_NAME}?)/inputs/(?P<input>{_NAME}?)\1\s*\)", re.I
)
_TERM = re.compile(r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?P<operator>=|!=|<>)\s*(['\"])(?P<value>[^'\"]*)\3\s*")


@dataclass(frozen=True, slots=True)
class Message:
    """A device-to-cloud message: who sent it, its properties in order (system properties begin with `$.`), its body."""

    sender: Identity
    properties: Mapping[str, str]
    body: bytes

    @property
    def address(self) -> str:
        """Where edgeHub's routes look for it."""
        if self.sender.module is None:
            return "/messages/events"
        output = self.properties.get(OUTPUT)
        where = "events" if output is None else f"outputs/{output}"
        return f"/messages/modules/{self.sender.module}/{where}"


@dataclass(frozen=True, slots=True)
class Sink:
    """An input of a module; without a module: the cloud (`$upstream`)."""

    module: str | None = None
    input: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One parsed route."""

    source: str
    conditions: tuple[tuple[str, bool, str], ...]
    sink: Sink

    def takes(self, message: Message) -> bool:
        """Whether the message goes this way."""
        address = message.address
        fits = address.startswith(self.source[:-1]) if self.source.endswith("*") else address == self.source
        return fits and all((message.properties.get(name) == value) == equal for name, equal, value in self.conditions)


def parse(text: str) -> Route:
    """Parse one route; UsageError says what can't be read, or what this hub does not understand."""
    found = _ROUTE.fullmatch(text)
    if found is None:
        raise UsageError(f"the route {text!r:.200} is not of the form FROM source [WHERE condition] INTO sink.")
    if not _SOURCE.fullmatch(found["source"]):
        raise UsageError(
            f"the route's source {found['source']!r:.120} is none of /*, /messages/*, /messages/modules/*, "
            "/messages/modules/M/*, /messages/modules/M/outputs/* and /messages/modules/M/outputs/NAME."
        )
    return Route(found["source"], tuple(_conditions(found["where"] or "")), _sink(found["sink"]))


def parse_all(desired: Mapping[str, Any]) -> dict[str, Route] | None:
    """The routes of an `$edgeHub` twin by name, or None if it has none; UsageError names the route that is wrong."""
    routes = desired.get("routes")
    if routes is None:
        return None
    if not isinstance(routes, dict):
        raise UsageError("routes is not a JSON object of names and routes.")
    parsed = {}
    for name, value in routes.items():
        text = value.get("route") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise UsageError(f"the route {name!r} is neither a string nor an object with a string 'route'.")
        try:
            parsed[name] = parse(text)
        except UsageError as error:
            raise UsageError(f"route {name!r}: {error}") from error
    return parsed


def read_properties(text: str) -> dict[str, str]:
    """The property bag at the end of a topic, percent-decoded."""
    pairs = (part.partition("=") for part in text.strip("/?").split("&") if part)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def write_properties(properties: Mapping[str, str]) -> str:
    """The property bag for a topic."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in properties.items())


def _conditions(text: str) -> Iterator[tuple[str, bool, str]]:
    if not text or text.strip().lower() == "true":
        return
    for term in re.split(r"\s+AND\s+", text, flags=re.I):
        found = _TERM.fullmatch(term)
        if found is None:
            raise UsageError(
                f"the local hub does not understand the condition {term.strip()!r:.120}; it knows "
                "name = 'text' and name != 'text' of application properties, joined by AND."
            )
        yield found["name"], found["operator"] == "=", found["value"]


def _sink(text: str) -> Sink:
    if text.lower() == "$upstream":
        return Sink()
    found = _SINK.fullmatch(text)
    if found is None:
        raise UsageError(
            f'the route\'s sink {text!r:.120} is neither $upstream nor BrokeredEndpoint("/modules/M/inputs/NAME").'
        )
    return Sink(found["module"], found["input"])
