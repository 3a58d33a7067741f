"""Starts a rollout: checks the plan against the hub, takes the model's record by its ETag, writes lists into tags.

A start that was cut short is carried on by the same start again.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.iothub.service_client import ConflictError
from modelsync_server.rollout import documents, record
from modelsync_server.rollout.documents import Found
from modelsync_server.rollout.enrolment import write_list
from modelsync_server.rollout.planning import RolloutPlan
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.reading import record_in
from modelsync_server.rollout.record import OVER, Record, RingRecord, State
from modelsync_server.rollout.target import EVERYONE

MAX_CONFIGURATIONS = 100
"""Of a paid hub, all models' together."""


async def start(hub: FleetHub, plan: RolloutPlan, *, by: str, older: bool = False, pushes: bool = True) -> Record:
    """Take the record and let the rollout run (the first ring is opened by the next step).

    RefusedError if another rollout of the model is under way (its name is said), if the fleet holds a newer version
    and `older` is not set, or if the hub has no room for so many configurations.
    """
    if plan.newest_held is not None and plan.newest_held > plan.version and not older:
        raise RefusedError(
            f"the fleet holds version {plan.newest_held} of {plan.model!r} and {plan.version} is older; "
            "give --older to go back to it."
        )
    present = await hub.configurations()
    ours = documents.found(present, plan.model)
    current = record_in(present, plan.model)
    made = _record(plan, ours, by=by, at=hub.now(), pushes=pushes)
    if current is not None and current.state not in OVER:
        if not _same(current, made):
            raise refused(current)
        made = current
    else:
        room = MAX_CONFIGURATIONS - len(present)
        if len(plan.rings) + 2 > room:
            raise RefusedError(
                f"a rollout in {len(plan.rings)} rings needs {len(plan.rings) + 2} configurations and the hub has room "
                f"for {room}; delete some, or use fewer rings."
            )
        made = await write(hub, made, None if current is None else current.etag)
    try:
        for ring in plan.rings:
            if ring.ring.devices:
                await write_list(hub, plan.target, ring.ring)
    except UsageError:
        await hub.delete_configuration(documents.record_id(made.model), etag=made.etag)
        raise
    try:
        return await write(hub, replace(made, state=State.RUNNING), made.etag)
    except ConflictError:
        current = record_in(await hub.configurations(), made.model)
        if current is None or current.rollout != made.rollout or current.state is State.PREPARING:
            raise
        return current  # what carries rollouts on has seen it already


def refused(current: Record) -> RefusedError:
    """Why a second rollout of a model does not start."""
    by = f" by {current.by}" if current.by else ""
    return RefusedError(
        f"rollout {current.name}{by} is {current.state.value} in ring {current.current.name!r}; "
        f"end it first: modelsync rollout abort {current.model}."
    )


async def write(hub: FleetHub, changed: Record, etag: str | None) -> Record:
    """Write the record if nobody else did since; RefusedError with the other's name if somebody did."""
    try:
        answer = await hub.put_configuration(
            documents.record_id(changed.model), documents.record_body(changed), etag=etag
        )
    except ConflictError as error:
        current = record_in(await hub.configurations(), changed.model)
        if current is not None and current.rollout != changed.rollout:
            raise refused(current) from error
        raise
    return record.parse(answer.get("labels"), str(answer.get("etag", "")))


def _record(plan: RolloutPlan, ours: Sequence[Found], *, by: str, at: float, pushes: bool) -> Record:
    rings = tuple(
        RingRecord(
            each.ring.name,
            each.ring.where,
            each.ring.gate,
            each.devices,
            each.reachable,
            each.bytes,
            each.worst,
            unsupported=each.unsupported,
        )
        for each in plan.rings
    )
    wishes = [each for each in ours if each.mark == "fleet" and each.target == plan.target]
    return Record(
        secrets.token_hex(3),
        plan.model,
        plan.version,
        plan.target,
        State.PREPARING,
        rings,
        by,
        at,
        priority=1 + max((each.priority for each in ours), default=0),
        needs_before=not any(each.where == EVERYONE for each in wishes),
        pushes=pushes,
        price_per_gb=plan.price_per_gb,
        currency=plan.currency,
    )


def _same(current: Record, wanted: Record) -> bool:
    """Whether `current` is the beginning of the very start that is wanted."""
    asked = [(ring.name, ring.where, ring.gate) for ring in wanted.rings]
    return (
        current.state is State.PREPARING
        and (current.version, current.target, current.by) == (wanted.version, wanted.target, wanted.by)
        and [(ring.name, ring.where, ring.gate) for ring in current.rings] == asked
    )
