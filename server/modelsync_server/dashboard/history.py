"""What a device went through, without a database. Bounded; no I/O.

From the hub's own times of each property, the audit log, and what this process saw it report since it runs.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelsync_server.dashboard.text import at, moment, seconds, shown, utc
from modelsync_server.rollout.port import Json

_MOST_DEVICES = 1000
_MOST_CHANGES = 40
_MOST_EVENTS = 100
_MOST_MODELS = 50
_TOLD = ("version", "state", "desired", "hold", "generation", "bytes")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: when (UTC, as the hub has it), who says so, on which model, what."""

    when: str
    source: str
    what: str
    model: str = ""


class Seen:
    """Remembers how devices' reports changed between two looks at them: of the last devices that were looked at."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[dict[str, str], deque[Event]]] = OrderedDict()

    def look(self, device: str, documents: Sequence[Json], now: float) -> tuple[Event, ...]:
        """Take in what the device reports now; return what changed since the first look."""
        told, events = self._known.get(device, ({}, deque(maxlen=_MOST_CHANGES)))
        current = {}
        for document in documents:
            models = at(document, "properties", "reported", "modelsync", "models")
            for name in sorted(models)[:_MOST_MODELS]:
                key = f"{shown(document.get('moduleId'))}/{shown(name)}"
                current[key] = _sentence(at(models, name))
        if device in self._known:
            for key, text in current.items():
                if told.get(key) != text:
                    events.append(Event(moment(utc(now)), "seen here", text, key.partition("/")[2]))
        self._known[device] = (current, events)
        self._known.move_to_end(device)
        while len(self._known) > _MOST_DEVICES:
            self._known.popitem(last=False)
        return tuple(events)


def events(documents: Sequence[Json], seen: Iterable[Event], acts: Iterable[Mapping[str, str]]) -> tuple[Event, ...]:
    """All that is known of a device, newest first. `acts` are lines of the audit log about it."""
    found = [*seen]
    for document in documents:
        found += _reported(document)
        found += _desired(document)
    for act in acts:
        who, what, answer = (shown(act.get(key)) for key in ("who", "what", "answer"))
        found.append(Event(moment(act.get("when")), f"operator {who}", f"{what}: {answer}", shown(act.get("on"))))
    return tuple(sorted(found, key=lambda each: each.when, reverse=True)[:_MOST_EVENTS])


def _reported(document: Json) -> list[Event]:
    """What the device said last of each property, together where it said it at once."""
    models = at(document, "properties", "reported", "modelsync", "models")
    metadata = at(document, "properties", "reported", "$metadata", "modelsync", "models")
    found = []
    for name in sorted(models)[:_MOST_MODELS]:
        by_time: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, value in at(models, name).items():
            if key in (*_TOLD, "error"):
                by_time[_when(at(metadata, name, key))][key] = value
        for when, told in by_time.items():
            text = _sentence(told)
            if text:
                found.append(Event(when, "device", text, shown(name)))
        since = seconds(at(models, name).get("since"))
        if since is not None:
            state = shown(at(models, name).get("state"))
            found.append(Event(moment(utc(since)), "device's clock", f"{state} since then", shown(name)))
    return found


def _desired(document: Json) -> list[Event]:
    models = at(document, "properties", "desired", "modelsync", "models")
    metadata = at(document, "properties", "desired", "$metadata", "modelsync", "models")
    found = []
    for name in sorted(models)[:_MOST_MODELS]:
        wish = at(models, name)
        text = ", ".join(f"{shown(key)} {shown(value)}" for key, value in sorted(wish.items())[:6])
        found.append(Event(_when(at(metadata, name)), "desired", text or "nothing", shown(name)))
    policy = at(document, "properties", "desired", "modelsync", "policy")
    if policy:
        when = _when(at(document, "properties", "desired", "$metadata", "modelsync", "policy"))
        text = ", ".join(f"{shown(key)} {shown(value)}" for key, value in sorted(policy.items())[:8])
        found.append(Event(when, "desired", f"policy: {text}"))
    return found


def _when(metadata: Mapping[str, Any]) -> str:
    return moment(metadata.get("$lastUpdated"))


def _sentence(told: Mapping[str, Any]) -> str:
    parts = [
        f"{'about version' if key == 'desired' else key} {shown(told[key], 60)}"
        for key in _TOLD
        if told.get(key) is not None
    ]
    error = at(told, "error")
    if error:
        parts.append(f"error {shown(error.get('code'), 60)}: {shown(error.get('text'))}")
    return ", ".join(parts)
