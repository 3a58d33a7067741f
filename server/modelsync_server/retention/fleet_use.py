"""What a hub's twins say of a model: which bytes they report and which version is desired of them. Reads only."""

from __future__ import annotations

from collections import Counter

from modelsync_server.retention.policy import Use
from modelsync_server.rollout.fleet import holders
from modelsync_server.rollout.port import FleetHub, rows
from modelsync_server.rollout.target import Target, desired
from modelsync_server.rollout.target import reported as about


async def use_of(hub: FleetHub, model: str) -> Use:
    """Of devices and of modules, whatever they are called."""
    reported: Counter[str] = Counter(await holders(hub, Target(), model))
    wished: Counter[int] = Counter()
    wish, at = f"{desired(model)}.version", f"{about(model)}.digest"
    asked = await rows(
        hub, f"SELECT {wish} AS version, COUNT() AS twins FROM devices WHERE is_defined({wish}) GROUP BY {wish}"
    )
    asked += await rows(hub, f"SELECT {wish} AS version FROM devices.modules WHERE is_defined({wish})")
    for row in asked:
        if type(version := row.get("version")) is int:
            wished[version] += row.get("twins", 1)
    for row in await rows(hub, f"SELECT {at} AS digest FROM devices.modules WHERE is_defined({at})"):
        if isinstance(digest := row.get("digest"), str):
            reported[digest] += 1
    return Use(dict(reported), dict(wished))


def together(uses: list[Use]) -> Use:
    """What several hubs say."""
    reported: Counter[str] = Counter()
    wished: Counter[int] = Counter()
    for use in uses:
        reported.update(use.reported)
        wished.update(use.desired)
    return Use(dict(reported), dict(wished))
