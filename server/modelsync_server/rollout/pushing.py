"""Pushes a ring's small updates over connections that are open anyway, just before the ring is asked.

A push stages and never activates; a device that takes none fetches as usual. Only what is cheaper than a fetch goes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from modelsync_protocol.errors import ModelsyncError
from modelsync_server.push import payload_for
from modelsync_server.rollout.fleet import Member, lacking, twins
from modelsync_server.rollout.planning import signed_digest
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.record import Record
from modelsync_server.rollout.target import both
from modelsync_server.store import Store

WORTH_BYTES = 24 * 1024
"""A payload beyond this costs more in base85 than the TLS connection that it saves."""
MOST_DEVICES = 5_000
"""More would hold a ring up for longer than it saves; they fetch."""
_AT_ONCE = 16
_ANSWER_SECONDS = 30
_log = logging.getLogger(__name__)


async def push_ring(hub: FleetHub, store: Store, record: Record, number: int) -> int:
    """Push to the ring's connected devices whose base has a small update; return how many staged it."""
    versions, digest = await signed_digest(store, record.model, record.version)
    requires = versions.requires.get(record.version, {})
    where = record.rings[number].where
    if not record.target.reporters_are_modules:
        where = both(where, "connectionState = 'Connected'")
    alike: dict[tuple[str, int], list[Member]] = defaultdict(list)
    for member in await twins(hub, record.target, record.model, where):
        base = member.held.digest
        if member.unsupported == record.version or lacking(requires, member.runs_on):
            continue
        if member.connected and base not in (None, digest) and not member.hold:
            alike[str(base), member.formats].append(member)
    staged = 0
    for (base, formats), members in sorted(alike.items()):
        payload, _, reason = await payload_for(store, record.model, record.version, digest, base, formats)
        if payload is None or len(payload["update"]) + len(payload["trust"]) > WORTH_BYTES:
            _log.debug("%s… fetches: %s", base[:12], reason or "the update is too big to push")
            continue
        gate = asyncio.Semaphore(_AT_ONCE)
        staged += sum(
            await asyncio.gather(*(_push(hub, gate, member, payload) for member in members[: MOST_DEVICES - staged]))
        )
    return staged


async def _push(hub: FleetHub, gate: asyncio.Semaphore, member: Member, payload: object) -> bool:
    async with gate:
        try:
            answer = await hub.invoke(member.device, "apply", payload, member.module, response_seconds=_ANSWER_SECONDS)
        except ModelsyncError as error:
            _log.info("%s fetches: %s", member.device, error)
            return False
    return answer.status == 200
