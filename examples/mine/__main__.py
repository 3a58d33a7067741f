"""`make story-mine`: a mine's lines under advice, updates in mid-stream, and everything that may go wrong with them."""

from __future__ import annotations

import sys

from examples.mine import harm, original, updates, verdict
from examples.mine.picture import draw
from examples.mine.site import LIMITS, SURFACE, UNDERGROUND, Mine
from examples.stories import faults
from examples.stories.telling import Story, tell, together


async def story(told: Story) -> None:
    """Everything, act by act; the abridged story is of one line."""
    mine = Mine(told, SURFACE[:1] if told.short else (*SURFACE, UNDERGROUND))
    told.act("A plant with an OPC UA server, a historian, a hub, an origin, and a device for each line")
    await mine.start()
    told.act("Version 1: from ore to set-point")
    await updates.first_versions(mine)
    told.act("Version 2 in mid-stream: a shadow first, then line by line")
    await updates.mid_stream(mine)
    if told.short:
        told.act("A service is killed")
        await harm.killed(mine, "mill-1", ("scoring",))
    else:
        told.act("Underground: by stick")
        await updates.underground(mine)
        told.act("Two bad versions, every defence on")
        await updates.bad_versions(mine)
        told.act("Killed services, a cut line")
        services = ("scoring", "actuator", "collector", "windowing")
        await together(harm.killed(mine, "mill-1", services), harm.cut_plant(mine, "mill-2"))
        told.act("People and machines come first; five models that are wrong, no defence left but the guard")
        await together(harm.human(mine, "mill-1"), harm.defenceless(mine, "mill-2"), original.pulls(mine))
    if told.short:
        told.act("The original way: a container image for each model")
        await original.pulls(mine)
    _whole_run(told, mine)


def _whole_run(told: Story, mine: Mine) -> None:
    """What must hold from the first scan to the last, and the picture."""
    logs = {name: mine.log(name) for name in mine.names}
    broken = [each for log in logs.values() for each in verdict.violations(log, LIMITS)]
    writes = sum(len(log.writes) for log in logs.values())
    scans = sum(len(log.scans) for log in logs.values())
    told.promise(
        "every set-point written in the whole run is finite, within limits, and no faster than allowed",
        not broken and writes > 0,
        f"{writes:,} writes; {'; '.join(broken[:3]) or 'none broke a rule'}",
    )
    without = sum(verdict.without_set_point(log.scans) for log in logs.values())
    told.promise(
        "the plant had a set-point in every scan of the run", without == 0, f"{scans:,} scans, {without} without"
    )
    told.report.figures |= {"scans": scans, "set-points written": writes}
    draw(told.out / "story-mine.svg", logs, mine.marks, LIMITS)


if __name__ == "__main__":
    faults.private_mounts("examples.mine", sys.argv[1:])
    sys.exit(tell("mine", __doc__ or "", story))
