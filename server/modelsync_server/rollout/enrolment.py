"""Writes into twins' tags what conditions need and can't compute: buckets, long lists, what a device had before.

In bulk, a hundred twins a call, only where a tag is missing: each call may be repeated, and none is made twice in vain.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_server.rollout.documents import asked_by, before_tag
from modelsync_server.rollout.fleet import Member, twins
from modelsync_server.rollout.port import FleetHub, Json, rows
from modelsync_server.rollout.record import Record
from modelsync_server.rollout.rings import BUCKET, Ring, bucket, list_tag
from modelsync_server.rollout.target import Target, both, quoted

BATCH = 100
_log = logging.getLogger(__name__)


async def write_buckets(hub: FleetHub, target: Target) -> int:
    """Give every twin that has none its bucket; return how many had none."""
    found = await rows(hub, target.members(target.ids, f"NOT is_defined({BUCKET})"))
    items = [_item(row["deviceId"], row.get("moduleId"), {"bucket": bucket(str(row["deviceId"]))}) for row in found]
    await _write(hub, items)
    return len(items)


async def write_list(hub: FleetHub, target: Target, ring: Ring) -> None:
    """Tag the devices of a long list; UsageError names some that the hub does not know."""
    tag = {"lists": {ring.name: list_tag(ring)}}
    module = target.module if target.members_are_modules else None
    failed = await _write(hub, [_item(device, module, tag) for device in ring.devices])
    if failed:
        raise UsageError(
            f"{len(failed)} devices of ring {ring.name!r} can't be tagged ({', '.join(failed[:3])}…): are they "
            "registered, and are their tags below 8 KB?"
        )


async def write_before(hub: FleetHub, record: Record, number: int) -> set[int]:
    """Write down what each device of a ring had, where this rollout has not done so; return all versions there are.

    That is the version it desires, else the one it holds, else 0 for none.
    """
    ring, tag = record.rings[number], before_tag(record.model)
    fresh = f"(NOT is_defined({tag}.rollout) OR {tag}.rollout != {quoted(record.rollout)})"
    members = await twins(hub, record.target, record.model, both(ring.where, fresh))
    await _write(
        hub,
        [
            _item(
                member.device,
                member.module if record.target.members_are_modules else None,
                {"before": {record.model: {"rollout": record.rollout, "version": had(member), "ring": number}}},
            )
            for member in members
        ],
    )
    return await befores(hub, record, number)


async def befores(hub: FleetHub, record: Record, number: int) -> set[int]:
    """The versions that the devices of a ring had before this rollout."""
    tag = before_tag(record.model)
    where = both(record.rings[number].where, asked_by(record, number))
    columns = f"{tag}.version AS version"
    if record.target.members_are_modules:
        found = await rows(hub, record.target.members(columns, where))
    else:
        query = record.target.members(f"{columns}, COUNT() AS devices", where)
        found = await rows(hub, f"{query} GROUP BY {tag}.version")
    versions = {row.get("version") for row in found}
    return {version for version in versions if type(version) is int and version >= 0}


def had(member: Member) -> int:
    """What a device goes back to."""
    return 0 if member.absent else member.desired or member.held.version or 0


async def _write(hub: FleetHub, items: list[Json]) -> list[str]:
    """Write tags; return the devices that take none (removed meanwhile, or with full tags)."""
    failed: list[str] = []
    for batch in _batches(items):
        failed += [str(error.get("deviceId")) for error in await hub.change_registry(batch)]
    if failed:
        _log.warning("%d devices take no tags: %s…", len(failed), ", ".join(failed[:3]))
    return failed


def _batches(items: list[Json]) -> Iterator[list[Json]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _item(device: Any, module: Any, tags: Json) -> Json:
    named = {} if module is None else {"moduleId": module}
    return {"id": device, **named, "importMode": "updateTwin", "tags": {"modelsync": tags}}
