"""Carries all rollouts of a hub forward: once (`step`), or until it is told to stop (`run`).

It remembers nothing, so any number of them may run; what they get in each other's way is settled by ETags.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from modelsync_protocol.errors import UnreachableError, UsageError
from modelsync_server.iothub.service_client import ConflictError, NotFoundError
from modelsync_server.rollout import record
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.record import MOVING, State
from modelsync_server.rollout.steps import step
from modelsync_server.store import Store

POLL_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 600.0
_MOST_STEPS = 50
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a rollout, for the one who watches; `moved` if something was done."""

    model: str
    rollout: str
    state: State | None
    moved: bool
    said: str


async def step_all(hub: FleetHub, store: Store | None, model: str | None = None) -> list[Event]:
    """One step of every rollout (or of one model's) that can go on by itself."""
    present = await hub.configurations()
    events = []
    for each in present:
        labels = each.get("labels")
        if not isinstance(labels, dict) or labels.get(record.MARK) != "record":
            continue
        if model not in (None, labels.get("model")):
            continue
        try:
            found = record.parse(labels, str(each.get("etag", "")))
        except UsageError as error:
            events.append(Event(str(labels.get("model")), "", None, False, str(error)))
            continue
        try:
            stepped = await step(hub, store, present, found)
        except (ConflictError, NotFoundError) as error:
            _log.info("%s: somebody else acted meanwhile: %s", found.name, error)
            events.append(Event(found.model, found.rollout, found.state, True, "somebody else acted; it reads again."))
            continue
        events.append(Event(found.model, found.rollout, found.state, stepped.moved, stepped.said))
    return events


async def settle(hub: FleetHub, store: Store | None, model: str | None = None) -> tuple[list[Event], bool]:
    """Steps until nothing can be done now but wait (or _MOST_STEPS were done).

    Return what happened, and whether all rollouts are over or wait for an operator.
    """
    said: list[Event] = []
    for _ in range(_MOST_STEPS):
        events = await step_all(hub, store, model)
        said += events
        if not any(event.moved for event in events):
            return said, not any(event.state in MOVING for event in events)
    return said, False


async def run(
    hub: FleetHub,
    store: Store | None,
    *,
    model: str | None = None,
    poll: float = POLL_SECONDS,
    until_over: bool = False,
    tell: Callable[[Event], None] = lambda event: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Carry rollouts forward every `poll` seconds; with `until_over` return when none can go on by itself.

    A hub that is away or throttles is asked again later and later; RefusedError (no rights) is raised.
    """
    pause, last = poll, dict[str, str]()
    while True:
        try:
            events, over = await settle(hub, store, model)
            pause = poll
        except UnreachableError as error:
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            last.clear()  # who reads along hears how things stand when the hub is back
            tell(Event(model or "", "", None, False, str(error)))
        else:
            for event in events:
                if event.moved or last.get(event.model) != event.said:
                    tell(event)
                last[event.model] = event.said
            if until_over and over:
                return
        # Spread: several of them need not ask at the same moment.
        await sleep(pause * random.uniform(0.9, 1.1))
