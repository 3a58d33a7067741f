"""`make story-camera`: cameras on a cluster's nodes, a retrained model in mid-stream, and what may go wrong with it."""

from __future__ import annotations

import shutil
import sys

from examples.camera import harm, original, updates, verdict
from examples.camera.cluster import NODES, Cluster
from examples.camera.picture import draw, sheet
from examples.stories import faults
from examples.stories.telling import Story, tell


async def story(told: Story) -> None:
    """Everything, act by act; the abridged story is of one node."""
    cluster = Cluster(told, NODES[:1] if told.short else NODES)
    told.act("A hub, an origin, and nodes with a daemon each")
    await cluster.start()
    told.act("Version 1: frames get names")
    await updates.first_versions(cluster)
    told.act("Version 2 knows a kind more, and comes while frames flow")
    await updates.retrained(cluster)
    told.act("Exports that must not go out")
    await harm.broken(cluster)
    if told.short:
        told.act("A scoring pod and the camera are killed")
        await harm.killed(cluster, "node-a")
    else:
        told.act("A signed version that is wrong")
        await harm.stopped(cluster)
        told.act("Killed modules, a cut line, a full disk")
        await harm.killed(cluster, "node-a")
        await harm.cut_and_killed(cluster)
        await harm.full_disk(cluster)
    told.act("The original ways: a container image for each model, a zip downloaded whole")
    await original.bill(cluster)
    _whole_run(told, cluster)


def _whole_run(told: Story, cluster: Cluster) -> None:
    """What must hold from the first frame to the last, and the pictures."""
    lines = {name: node.lines() for name, node in cluster.nodes.items()}
    lost = sum(len(verdict.lost(each)) for each in lines.values())
    twice = sum(len(verdict.twice(each)) for each in lines.values())
    frames = sum(len(each) for each in lines.values())
    told.promise(
        "in the whole run no frame was lost and none was named twice",
        not lost and not twice and frames > 0,
        f"{frames:,} frames of {len(lines)} cameras: {lost} lost, {twice} twice",
    )
    told.report.figures["frames"] = frames
    draw(told.out / "story-camera.svg", list(cluster.nodes.values()), cluster.marks)
    sheet(told.out / "story-camera.png", cluster.nodes["node-a"], cluster.frames)
    if shutil.which("k3s") is None:
        told.not_tried("a real k3s: there is none here; each node's processes run what the manifests' containers run.")


if __name__ == "__main__":
    faults.private_mounts("examples.camera", sys.argv[1:])
    sys.exit(tell("camera", __doc__ or "", story))
