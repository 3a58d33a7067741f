"""Spans as plain data: what was done when, under which parent. Knows W3C's header and no library.

Source: W3C Trace Context, Level 1 (traceparent, version 00).
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelsync_protocol.errors import UsageError

_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Place:
    """A span's place: its trace and itself, lower-case hexadecimal."""

    trace: str
    span: str

    @classmethod
    def parse(cls, header: str) -> Place:
        """Of a `traceparent`; UsageError."""
        match = _PARENT.fullmatch(header.strip())
        if match is None or not int(match[1], 16) or not int(match[2], 16):
            raise UsageError(f"{header!r:.80} is no traceparent, such as 00-{'4bf92f35' * 4}-{'00f067aa' * 2}-01.")
        return cls(match[1], match[2])

    @classmethod
    def new(cls, parent: Place | None = None) -> Place:
        """A new span of the parent's trace, or of a new one."""
        return cls(parent.trace if parent else secrets.token_hex(16), secrets.token_hex(8))

    def child(self, *what: object) -> Place:
        """A span of the same trace whose id follows from what it is about: exported twice it is the same span."""
        text = "\x00".join(map(str, (self.trace, self.span, *what)))
        return Place(self.trace, hashlib.sha256(text.encode()).hexdigest()[:16])

    def __str__(self) -> str:
        return f"00-{self.trace}-{self.span}-01"


@dataclass(frozen=True, slots=True)
class Span:
    """`begin` and `end` in milliseconds since the epoch. `failed`: why, or None."""

    name: str
    place: Place
    parent: Place | None
    begin: int
    end: int
    service: str
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    failed: str | None = None


def of_device(device: str, name: str, model: Mapping[str, Any], module: str | None = None) -> Iterator[Span]:
    """A device's update and its stages, of a reported model; nothing if it reports no trace. It may be hostile.

    A stage lasts until the next one begins; the last one, a state to stay in, has no length.
    """
    told = model.get("trace")
    if not isinstance(told, Mapping):
        return
    try:
        parent = Place.parse(str(told.get("parent", "")))
    except UsageError:
        return
    steps = (
        [step for step in told.get("steps", ()) if _is_step(step)] if isinstance(told.get("steps"), Sequence) else []
    )
    steps.sort(key=lambda step: step[1])
    if not steps:
        return
    who = {"modelsync.device": device, "modelsync.model": name} | (
        {} if module is None else {"modelsync.module": module}
    )
    where = f"modelsyncd {device}"
    whole = parent.child(device, module, name, steps[0][1])
    last, ended = steps[-1]
    version, size = model.get("version"), model.get("bytes")
    about = who | {"modelsync.state": last}
    about |= {
        key: value for key, value in (("modelsync.version", version), ("modelsync.bytes", size)) if _is_count(value)
    }
    error = model.get("error")
    code = str(error.get("code", ""))[:64] if isinstance(error, Mapping) else None
    failed = code or (last if last in ("rolled back", "quarantined") else None)
    yield Span(f"update {name}", whole, parent, steps[0][1], ended, where, about, failed)
    for (state, begin), (_, end) in itertools.pairwise(steps):
        yield Span(state, whole.child(state, begin), whole, begin, end, where, who)


def _is_step(step: object) -> bool:
    return (
        isinstance(step, Sequence) and not isinstance(step, str) and len(step) == 2
        and isinstance(step[0], str) and 0 < len(step[0]) <= 32 and _is_count(step[1])
    )  # fmt: skip


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53
