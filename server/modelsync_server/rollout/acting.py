"""What an operator may do to a rollout: pause, resume, abort. Each writes the record once, by its ETag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.rollout import documents
from modelsync_server.rollout.gate import Gate
from modelsync_server.rollout.port import FleetHub, Json
from modelsync_server.rollout.reading import nothing, record_in
from modelsync_server.rollout.record import MOVING, Record, RingRecord, State
from modelsync_server.rollout.starting import write
from modelsync_server.rollout.target import EVERYONE


async def pause(hub: FleetHub, model: str, *, by: str) -> Record:
    """Ask no further ring until it is resumed; rings that are open stay open."""
    _, found = await _read(hub, model)
    if found.state is State.PAUSED:
        return found
    if found.state not in (State.RUNNING, State.PREPARING):
        raise RefusedError(f"rollout {found.name} is {found.state.value}; only one that runs can pause.")
    return await write(hub, replace(found, state=State.PAUSED, why=f"paused by {by}."), found.etag)


async def resume(hub: FleetHub, model: str, *, by: str) -> Record:
    """Go on; the open ring's longest wait begins anew. What was changed by hand is put right first."""
    present, found = await _read(hub, model)
    if found.state in MOVING:
        return found
    if found.state not in (State.PAUSED, State.STOPPED) or any(ring.returned for ring in found.rings):
        raise RefusedError(f"rollout {found.name} is {found.state.value} and can't go on; start another one.")
    ours = {each.id: each for each in documents.found(present, model)}
    changed = found
    for number, ring in enumerate(found.rings):
        if ring.opened is None:
            continue
        identifier, body = documents.ring_id(found, number), documents.ring_body(found, number)
        there = ours.get(identifier)
        if there is not None and there.document.get("content") != body["content"]:
            await hub.delete_configuration(identifier, etag=there.etag)
            there = None
        if there is None:
            await hub.put_configuration(identifier, body)
        elif there.differs(body):
            await hub.put_configuration(identifier, body, etag=there.etag)
        if number == found.ring:
            changed = changed.with_ring(number, replace(ring, opened=hub.now(), ripe=None))
    return await write(hub, replace(changed, state=State.RUNNING, why=f"resumed by {by}."), found.etag)


async def abort(hub: FleetHub, model: str, *, by: str, back: bool) -> Record:
    """End it. With `back` all rings that were asked get what they had; without, they keep the new version.

    Rings that were not opened keep what they have in any case. With `back` a rollout is ended, too, whose record
    somebody deleted or made nonsense of: its rings say enough.
    """
    present = await hub.configurations()
    try:
        found = record_in(present, model)
    except UsageError:
        if not back:
            raise
        found = None
    if found is None:
        left = _salvaged(present, model, now=hub.now()) if back else None
        if left is None:
            raise nothing(present, model)
        return await write(hub, replace(left, by=by, why=f"aborted by {by}."), left.etag or None)
    opened = tuple(number for number, ring in enumerate(found.rings) if ring.opened is not None and not ring.returned)
    if found.state in (State.FINISHING, State.RETURNED) or (found.state is State.ABORTED and not back):
        raise RefusedError(f"rollout {found.name} is {found.state.value} already.")
    why = f"aborted by {by}."
    state = State.ABORTED if not back else State.RETURNING if opened else State.RETURNED
    changed = replace(found, state=state, returning=opened if back else (), aborted=True, why=why)
    return await write(hub, changed, found.etag)


def _salvaged(present: Sequence[Json], model: str, *, now: float) -> Record | None:
    """A record that returns the rings of a model's last rollout, made of what they say themselves; None without any."""
    ours = documents.found(present, model)
    rings = [each for each in ours if each.mark == "ring"]
    damaged = next((each for each in present if each.get("id") == documents.record_id(model)), None)
    etag = "" if damaged is None else str(damaged.get("etag", ""))
    if not rings:
        return None
    last = max(rings, key=lambda each: each.priority)
    asked = {documents.number(each): each for each in rings if each.rollout == last.rollout}
    records = tuple(
        RingRecord(documents.ring_name(asked[number]), asked[number].where, Gate(), opened=now)
        if number in asked
        else RingRecord(f"ring-{number}", EVERYONE, Gate())
        for number in range(max(asked) + 1)
    )
    return Record(
        last.rollout,
        model,
        last.version,
        last.target,
        State.RETURNING,
        records,
        started=now,
        ring=max(asked),
        priority=max(each.priority for each in ours),
        returning=tuple(sorted(asked)),
        aborted=True,
        needs_before=not any(each.mark == "fleet" and each.where == EVERYONE for each in ours),
        etag=etag,
    )


async def _read(hub: FleetHub, model: str) -> tuple[list[Json], Record]:
    present = await hub.configurations()
    found = record_in(present, model)
    if found is None:
        raise nothing(present, model)
    return present, found
