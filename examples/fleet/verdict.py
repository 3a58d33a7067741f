"""What came of the rollout, by the devices' twins and not by what the rollout says of itself."""

from __future__ import annotations

import aiohttp

from examples.demo.stage import StageError
from examples.fleet.devices import MODEL
from examples.fleet.operating import Fleet, Json, reported
from modelsync_server.rollout.reading import RolloutStatus

TOLERANCE = 0.02


async def verdict(demo: Fleet, status: RolloutStatus) -> None:
    """What came of it, by the twins, not by what the rollout says of itself."""
    stopped = next((number for number, ring in enumerate(status.rings, 1) if ring.state in ("returned", "failed")), 0)
    demo.promise("it stops in ring two", stopped == 2, status.record.why)

    async def returned() -> list[str]:
        now = await demo.twins()
        ring = demo.parts[1].ids
        return [device for device in ring if _as_before(demo.before[device], now[device])]

    async def all_returned() -> bool:
        return len(await returned()) == demo.parts[1].devices

    try:
        await demo.until("the return of ring two", all_returned)
    except StageError as error:
        demo.say(str(error))
    back, now = await returned(), await demo.twins()
    before = [reported(demo.before[device]).get("version") for device in back]
    demo.promise(
        "ring two has what it had before",
        len(back) == demo.parts[1].devices,
        f"{len(back)} of {demo.parts[1].devices} devices: {before.count(1)} version 1, {before.count(2)} version 2",
    )
    third = demo.parts[2].ids
    touched = [device for device in third if _wish_version(now[device]) != _wish_version(demo.before[device])]
    asked = [device for device in third if device in demo.clients and 3 in demo.clients[device].heard]
    demo.promise(
        "ring three saw nothing",
        not touched and not asked and status.rings[2].state == "waiting",
        f"the desired properties of {len(third) - len(touched)} of {len(third)} devices were not written",
    )
    predicted = sum(ring.predicted for ring in status.rings[:2])
    spent = sum(ring.spent or 0 for ring in status.rings[:2])
    demo.promise(
        "what was predicted is what was spent, in rings one and two",
        abs(spent - predicted) <= TOLERANCE * predicted,
        f"{predicted:,} bytes predicted, {spent:,} reported by the devices",
    )
    report = demo.report
    report.stopped_in_ring, report.untouched_ring = stopped, 0 if touched or asked else 3
    report.returned, report.predicted_bytes, report.spent_bytes = len(back), predicted, spent
    async with aiohttp.ClientSession() as session, session.get(f"{demo.page}rollout/{MODEL}") as answer:
        text = await answer.text()
        demo.promise("the page shows it", answer.status == 200 and "stopped" in text, f"{demo.page}rollout/{MODEL}")
    await demo.show("rollout", "status", MODEL)


def _as_before(before: Json, now: Json) -> bool:
    """Whether a device serves and desires what it did."""
    model, old = reported(now), reported(before)
    wished = [each["properties"]["desired"]["modelsync"]["models"][MODEL] for each in (before, now)]
    serves = (model.get("version"), model.get("digest")) == (old.get("version"), old.get("digest"))
    return wished[0] == wished[1] and serves and model.get("state") == "active"


def _wish_version(twin: Json) -> int:
    return int(twin["properties"]["desired"]["$version"])
