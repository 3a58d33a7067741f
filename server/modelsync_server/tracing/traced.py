"""A piece of work of this machine as a span: from `begin` to `end`, exported at its end."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_server.tracing.export import export
from modelsync_server.tracing.spans import Place, Span

PARENT_VARIABLE = "TRACEPARENT"
"""Where a pipeline's own trace is looked for, as OpenTelemetry's tools do."""


@dataclass(frozen=True, slots=True)
class Traced:
    """Work that has begun. `parent` is the context for what follows from it."""

    name: str
    place: Place
    above: Place | None
    began: float

    @property
    def parent(self) -> str:
        """A `traceparent` that names this span."""
        return str(self.place)

    def end(self, attributes: Mapping[str, str | int]) -> None:
        """It is done: send it. Raises as `export`."""
        begin, end = (round(seconds * 1000) for seconds in (self.began, time.time()))
        export([Span(self.name, self.place, self.above, begin, end, "modelsync", attributes)])


def asking(patch: Mapping[str, Any], parent: str) -> dict[str, Any]:
    """A merge patch on desired properties that asks for the stages of each update; UsageError if it wishes for none."""
    asked: dict[str, Any] = copy.deepcopy(dict(patch))
    section = asked.get("modelsync")
    models = section.get("models") if isinstance(section, dict) else None
    wished = [model for model in models.values() if isinstance(model, dict)] if isinstance(models, dict) else []
    if not wished:
        raise UsageError("there is no update to trace: the patch wishes for no version of a model.")
    for model in wished:
        model["trace"] = parent
    return asked


def begin(name: str, parent: str | None = None) -> Traced:
    """Begin a span below `parent` (a traceparent; by default the environment's), or a trace. UsageError."""
    header = parent if parent is not None else os.environ.get(PARENT_VARIABLE, "")
    above = Place.parse(header) if header else None
    return Traced(name, Place.new(above), above, time.time())
