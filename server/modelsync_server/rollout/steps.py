"""One step of a rollout: read the hub, do the next thing, write the record. Nothing is remembered between steps.

Each step may be cut off after any of its calls: what it did can be seen at the hub, and the next step goes on from
there, on any machine. The record's ETag lets one of several through; the others read again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.iothub.service_client import ConflictError, NotFoundError
from modelsync_server.rollout import documents
from modelsync_server.rollout.documents import Found
from modelsync_server.rollout.enrolment import befores, write_before, write_buckets
from modelsync_server.rollout.fleet import spent
from modelsync_server.rollout.gate import Verdict, devices
from modelsync_server.rollout.planning import signed_digest
from modelsync_server.rollout.port import FleetHub, Json
from modelsync_server.rollout.pushing import push_ring
from modelsync_server.rollout.reading import RolloutStatus, is_edge, ring_spent, status_in
from modelsync_server.rollout.record import MOVING, Record, State
from modelsync_server.rollout.starting import write
from modelsync_server.rollout.target import both
from modelsync_server.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step did: the rollout as it was found, whether anything was done, and a sentence."""

    record: Record
    moved: bool
    said: str


async def step(hub: FleetHub, store: Store | None, present: Sequence[Json], found: Record) -> Stepped:
    """Do the next thing for a record among the hub's configurations.

    ConflictError if somebody else did something meanwhile; what hub and store raise.
    """
    if found.state not in MOVING:
        return Stepped(found, False, f"{found.state.value}: {found.why}")
    status = await status_in(hub, present, found, spending=False)
    ours = {each.id: each for each in documents.found(present, found.model)}
    if found.state is State.PREPARING:
        if any("tags.modelsync.lists." in ring.where for ring in found.rings):
            return Stepped(found, False, status.waits)
        await write(hub, replace(found, state=State.RUNNING), found.etag)
        return Stepped(found, True, "it runs.")
    if found.state is State.RETURNING:
        return await _return(hub, found, ours)
    if found.state is State.FINISHING:
        return await _finish(hub, found, list(ours.values()))
    trouble = next((ring.trouble for ring in status.rings if ring.trouble), "")
    if trouble:
        return await _pause(hub, found, trouble)
    if found.current.opened is None:
        return await _open(hub, store, found, ours)
    return await _judge(hub, found, status)


async def _pause(hub: FleetHub, found: Record, why: str) -> Stepped:
    await write(hub, replace(found, state=State.PAUSED, why=why), found.etag)
    return Stepped(found, True, f"it pauses: {why}")


async def _open(hub: FleetHub, store: Store | None, found: Record, ours: dict[str, Found]) -> Stepped:
    number, ring = found.ring, found.current
    identifier = documents.ring_id(found, number)
    if identifier not in ours:
        if store is not None:
            try:
                await signed_digest(store, found.model, found.version)
            except (RefusedError, UsageError) as error:
                return await _pause(hub, found, str(error))
        if "tags.modelsync.bucket" in ring.where:
            await write_buckets(hub, found.target)
        if found.needs_before:
            await write_before(hub, found, number)
        if not is_edge(found.target):
            # What earlier rings fetched is theirs, though this condition may hold for their devices too.
            others = [f"NOT is_defined(configurations.[[{documents.ring_id(found, each)}]])" for each in range(number)]
            held = await spent(hub, found.target, found.model, found.version, both(ring.where, *others))
            if held != ring.held:
                ring = replace(ring, held=held)
                found = await write(hub, found.with_ring(number, ring), found.etag)
        if found.pushes and store is not None:
            await push_ring(hub, store, found, number)
        try:
            await hub.put_configuration(identifier, documents.ring_body(found, number))
        except ConflictError:
            _log.info("%s is there: an earlier step was cut short", identifier)
    opened = replace(ring, opened=hub.now())
    await write(hub, found.with_ring(number, opened), found.etag)
    return Stepped(found, True, f"ring {ring.name} is open for {devices(ring.devices)}.")


async def _judge(hub: FleetHub, found: Record, status: RolloutStatus) -> Stepped:
    for number, ring in enumerate(status.rings[: found.ring]):
        if ring.judgement is not None and ring.judgement.verdict is Verdict.BREAK:
            # A ring that had passed went bad later.
            return await _break(hub, found, status, number, ring.judgement.why)
    ring = status.rings[found.ring]
    judgement = ring.judgement
    assert judgement is not None, "an open ring without trouble has a judgement"
    if judgement.verdict is Verdict.BREAK:
        return await _break(hub, found, status, found.ring, judgement.why)
    if judgement.verdict is Verdict.EXPIRE:
        why = f"ring {ring.name}: {judgement.why}"
        await write(hub, replace(found, state=State.STOPPED, why=why), found.etag)
        return Stepped(found, True, f"it stops: {why}")
    if judgement.verdict is Verdict.ADVANCE:
        used = await ring_spent(hub, found, found.ring)
        passed = replace(ring.record, counts=ring.counts, ripe=judgement.ripe, spent=used)
        changed = replace(found.with_ring(found.ring, passed), ring=found.ring + 1)
        if changed.ring == len(found.rings):
            finished = datetime.fromtimestamp(hub.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            changed = replace(changed, state=State.FINISHING, why=finished)
        await write(hub, changed, found.etag)
        return Stepped(found, True, f"ring {ring.name} passed: {judgement.why}")
    if judgement.ripe != ring.record.ripe:
        await write(hub, found.with_ring(found.ring, replace(ring.record, ripe=judgement.ripe)), found.etag)
    return Stepped(found, False, f"ring {ring.name}: {judgement.why}")


async def _break(hub: FleetHub, found: Record, status: RolloutStatus, number: int, why: str) -> Stepped:
    ring = status.rings[number]
    why = f"ring {ring.name}: {why}"
    changed = found.with_ring(number, replace(ring.record, counts=ring.counts))
    if ring.record.gate.returns:
        # If a ring that had passed goes bad, the one that is open is in no better hands.
        back = tuple(sorted({number, *([found.ring] if found.current.opened is not None else [])}))
        changed = replace(changed, state=State.RETURNING, returning=back, why=why)
    else:
        changed = replace(changed, state=State.STOPPED, why=why)
    await write(hub, changed, found.etag)
    return Stepped(found, True, f"it stops: {why}")


async def _return(hub: FleetHub, found: Record, ours: dict[str, Found]) -> Stepped:
    """Give one ring back what it had, or end if all that should go back did."""
    for number in sorted(found.returning, reverse=True):
        ring = found.rings[number]
        if ring.returned or ring.opened is None:
            continue
        identifier = documents.ring_id(found, number)
        configuration = ours.get(identifier)
        if configuration is not None and ring.spent is None:
            # Before anything is taken back: afterwards the hub does not count these devices as asked any more.
            noted = replace(ring, counts=configuration.counts, spent=await ring_spent(hub, found, number))
            await write(hub, found.with_ring(number, noted), found.etag)
            return Stepped(found, True, f"ring {ring.name} goes back.")
        if found.needs_before:
            for version in sorted(await befores(hub, found, number)):
                back = documents.back_id(found, number, version)
                if back not in ours:
                    await _create(hub, back, documents.back_body(found, number, version))
        if configuration is not None:
            await _delete(hub, identifier)
        await write(hub, found.with_ring(number, replace(ring, returned=True)), found.etag)
        return Stepped(found, True, f"ring {ring.name} has what it had before.")
    await write(hub, replace(found, state=State.RETURNED if found.aborted else State.STOPPED), found.etag)
    return Stepped(found, True, f"it ends: {found.why}")


async def _finish(hub: FleetHub, found: Record, ours: Sequence[Found]) -> Stepped:
    """One configuration holds the wish from now on; all others of the model that it makes needless go."""
    wish, where = documents.fleet_id(found), documents.fleet_where(found)
    if wish not in {each.id for each in ours}:
        await _create(hub, wish, documents.fleet_body(found))
    for each in ours:
        if each.id == wish or each.mark == "record" or each.target != found.target:
            continue
        if each.rollout == found.rollout or documents.covers(where, each.where):
            await _delete(hub, each.id)
    await hub.delete_configuration(documents.record_id(found.model), etag=found.etag)
    return Stepped(found, True, f"version {found.version} is what the fleet wants.")


async def _create(hub: FleetHub, identifier: str, body: Json) -> None:
    try:
        await hub.put_configuration(identifier, body)
    except ConflictError:
        _log.info("%s is there: an earlier step was cut short", identifier)


async def _delete(hub: FleetHub, identifier: str) -> None:
    try:
        await hub.delete_configuration(identifier)
    except NotFoundError:
        _log.info("%s is gone: an earlier step was cut short", identifier)
