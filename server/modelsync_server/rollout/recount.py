"""Counts a ring's devices anew where the hub's metrics leave some over: who can't run the version has not failed.

Configurations have five metrics at the most, and a gate needs all of them. What none of them counts is asked here, in
an order in which a device that moves on meanwhile is rather counted twice than not at all.
"""

from __future__ import annotations

from modelsync_server.rollout.gate import Counts
from modelsync_server.rollout.port import FleetHub, count, rows
from modelsync_server.rollout.target import Kind, Target, conditions


async def recount(hub: FleetHub, target: Target, model: str, version: int, asked: str, counted: Counts) -> Counts:
    """The counts, asked of the hub anew if `counted` (its metrics) leaves devices over; else those."""
    if counted.failed <= counted.refused + counted.rolled_back:
        return counted
    wanted = conditions(target, model, version, asked)

    async def number(name: str) -> int:
        where = wanted[name]
        if target.kind is Kind.DEVICE:
            return await count(hub, target.reporters("COUNT() AS devices", where))
        return len(await rows(hub, target.reporters("deviceId, moduleId", where)))  # Azure counts no modules

    order = ("asked", "unsupported", "waiting", "active", "refused", "rolled_back")
    found = {name: await number(name) for name in order}
    found["unsupported"] = max(found["unsupported"], await number("unsupported"))
    return Counts(**found)
