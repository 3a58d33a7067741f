"""What a hub's twins say of a model: which bytes they report and which version is desired of them. Reads only."""

from __future__ import annotations

from collections import Counter

from modelsync_server.retention.policy import Use
from modelsync_server.rollout.fleet import holders
from modelsync_server.rollout.port import FleetHub, rows
from modelsync_server.rollout.target import Target, desired


async def use_of(hub: FleetHub, model: str) -> Use:
    """Of devices and of modules, whatever they are called."""
    reported: Counter[str] = Counter(await holders(hub, Target(), model))
    wished: Counter[int] = Counter()
    at = desired(model)
    for source in ("devices", "devices.modules"):
        where = "" if source == "devices" else f" WHERE is_defined({at}.version)"
        for row in await rows(hub, f"SELECT {at}.version AS version FROM {source}{where}"):
            version = row.get("version")
            if type(version) is int:
                wished[version] += 1
    at = f"properties.reported.{at.removeprefix('properties.desired.')}"
    for row in await rows(hub, f"SELECT {at}.digest AS digest FROM devices.modules WHERE is_defined({at}.digest)"):
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
