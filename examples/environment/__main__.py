"""`make story-environment`: one lock is the environment of cloud and edge; a bumped package, faults, the way back."""

from __future__ import annotations

import sys

from examples.environment import acts, kit, original
from examples.environment.acts import Play
from examples.environment.cloud_side import Workshop
from examples.environment.edge import INTERPRETER, Edge
from examples.environment.picture import draw
from examples.stories import faults
from examples.stories.cloud import Cloud
from examples.stories.telling import Story, tell


async def story(told: Story) -> None:
    """Everything, act by act; the abridged story makes its packages itself and leaves the unit and some faults out."""
    told.environment |= {"MODELSYNC_PYTHON": INTERPRETER, "XDG_CACHE_HOME": str(told.work / "cache")}
    told.act("Wheels for two locks, a hub, an origin")
    packages = told.work / "packages"
    packages.mkdir()
    chosen = kit.small(packages) if told.short else await kit.real(packages)
    cloud = await Cloud(told).start()
    workshop = Workshop(told, chosen, {})
    rows = kit.asked()
    play = Play(cloud, workshop, Edge(told, cloud, rows))
    told.act("In the cloud: an environment of one lock, and a model trained in it")
    await acts.one_lock(play)
    told.act("On the edge: the same environment")
    await acts.first_install(play)
    told.act("One package is bumped")
    await acts.bumped(play)
    told.act("Broken environments, a killed service")
    await acts.broken(play)
    await acts.killed(play)
    told.act("The way back")
    await acts.way_back(play)
    if not told.short:
        told.act("Environment and model as one unit")
        await acts.one_unit(play)
    told.act("The original ways")
    await original.ways(play)
    acts.whole_run(play)
    draw(told.out / "story-environment.svg", play.edge.answers, play.marks)


if __name__ == "__main__":
    faults.private_mounts("examples.environment", sys.argv[1:])
    sys.exit(tell("environment", __doc__ or "", story))
