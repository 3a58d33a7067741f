"""`make story-fleet`: vehicles whose temperatures are watched, and the loop from them to the cloud and back, twice."""

from __future__ import annotations

import sys

from examples.anomaly.readings import WINDOW
from examples.stories import faults
from examples.stories.telling import Story, tell, together
from examples.vehicles import harm, loop, original, temperatures, verdict
from examples.vehicles.fleet import SHORT, Fleet, whole
from examples.vehicles.picture import draw
from examples.vehicles.temperatures import Conditions


async def story(told: Story) -> None:
    """Everything, act by act; the abridged story goes around once, with two vehicles."""
    fleet = Fleet(told, SHORT if told.short else whole())
    told.act("A hub, an origin, a lake, Prometheus, and vehicles")
    await fleet.start()
    if not told.short:
        fleet.small_disk(harm.DISK)
    told.act("Version 1: from the vehicle to the lake")
    await loop.first(fleet)
    winter = fleet.lake.commits()[-1].number
    told.act("Summer comes: drift, a retrained version, a rollout")
    await loop.around(fleet, "summer", Conditions(heat=1.0), 2, fleet.through)
    told.act("The original way, a container image for each model, beside what may go wrong on the vehicles")
    await together(original.pulls(fleet, 1, 2), _gone_wrong(fleet, winter))
    original.bill(fleet, 2)
    await _whole_run(told, fleet)


async def _gone_wrong(fleet: Fleet, winter: int) -> None:
    killed = harm.killed(fleet, list(fleet.vehicles)[-1])
    if fleet.story.short:
        await killed
        return
    await together(killed, _bad_versions(fleet, winter))
    fleet.story.act("Sensors age: around again, over a line that breaks and to a disk that is full")

    async def rough(version: int) -> bool:
        return await harm.rough_rollout(fleet, version, before=2)

    await loop.around(fleet, "worn sensors", Conditions(heat=1.0, age=1.0), 4, rough)


async def _bad_versions(fleet: Fleet, winter: int) -> None:
    await loop.worse(fleet, winter)
    await harm.broken(fleet, 2)


async def _whole_run(told: Story, fleet: Fleet) -> None:
    """What must hold from the first window to the last, what the vehicles sent, and the picture."""
    commits = fleet.lake.commits()
    wrong, windows = verdict.not_once(fleet.lake), verdict.judged(fleet.lake)
    twice, missed = sum(each.twice for each in commits), sum(each.missed for each in commits)
    rejected = fleet.lake.read("rejected", ["id"]).num_rows
    told.promise(
        "every window of the whole run is in the lake exactly once",
        not wrong and not missed and not rejected and len(windows) > 0,
        f"{len(windows):,} windows in {len(commits)} commits, {twice} messages came twice; "
        + ("; ".join(wrong[:3]) or "none lacks"),
    )
    sent = verdict.sent(fleet.lake)
    raw = len(windows) * temperatures.SENSORS * WINDOW * temperatures.SAMPLES * temperatures.SAMPLE_BYTES
    told.report.figures |= {
        "windows in the lake": len(windows),
        "bytes of samples, raw": raw,
        "bytes sent up after stage 1 (messages' bodies)": sum(sent.values()),
        "bytes sent up without readings (alarms and scores)": sent["alarms"] + sent["scores"],
    }
    drift, versions = await fleet.series("temperature_drift_psi"), await fleet.series("temperature_vehicles")
    if drift:
        draw(told.out / "story-vehicles.svg", drift, versions, fleet.judged(), fleet.marks, fleet.began)


if __name__ == "__main__":
    faults.private_mounts("examples.vehicles", sys.argv[1:])
    sys.exit(tell("vehicles", __doc__ or "", story))
