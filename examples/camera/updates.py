"""Acts about updates: the first versions, and the retrained one that comes in while frames flow."""

from __future__ import annotations

import asyncio
from pathlib import Path

from examples.camera import verdict
from examples.camera.cluster import Cluster
from examples.camera.pictures import FIRST_KINDS, KINDS
from examples.camera.pipeline import Agent, PipelineError
from examples.demo.stage import StageError
from examples.stories.telling import ROOT

LABELS = {1: FIRST_KINDS, 2: KINDS, 3: KINDS}
WHAT = "a retrained version, for one node"
PIPELINE = ROOT / "examples" / "pipelines" / "camera-azure-pipelines.yml"
PROJECT, KEY = "0f5ce2c1-5e7a-4d3d-9f29-2f6a1ce3a001", "training-key"


async def first_versions(cluster: Cluster) -> None:
    """Version 1 everywhere; then cameras and pods are started."""
    story, cloud = cluster.story, cluster.cloud
    for model in cluster.models:
        await cluster.publish(1, model)
    begin = cloud.line.counts()
    await asyncio.gather(*(cloud.desire(name, node.model, 1) for name, node in cluster.nodes.items()))
    await asyncio.gather(*(cloud.serving(name, node.model, 1) for name, node in cluster.nodes.items()))
    story.report.figures["first install, bytes a node"] = cloud.spent(begin) // len(cluster.nodes)
    await asyncio.gather(*(node.start() for node in cluster.nodes.values()))
    await asyncio.gather(*(node.names(1) for node in cluster.nodes.values()))
    story.say(f"{', '.join(cluster.nodes)}: a daemon, two scoring pods and a camera each; frames are named")
    for node in cluster.nodes.values():
        if node.sealed:
            story.not_tried(f"pods that can't write to the data directory: {node.sealed}")
            return
    refused = []
    for node in cluster.nodes.values():
        try:
            (node.view / "models" / node.model / "current.json").write_text("{}")
        except OSError as error:
            refused.append(str(error.strerror))
    story.promise(
        "one data directory a node: its daemon writes, its pods read",
        len(refused) == len(cluster.nodes),
        f"a pod that writes the pointer is told: {', '.join(sorted(set(refused))) or 'nothing'}",
    )


async def retrained(cluster: Cluster) -> None:
    """Version 2 knows a kind more, so its labels move; no frame is lost or called by another version's label."""
    story, cloud = cluster.story, cluster.cloud
    first = cluster.mark("version 2 is desired")
    begin = cloud.line.counts()
    if story.short:
        found = await cluster.publish(2, "parts")
        await cloud.desire("node-a", "parts", 2)
        nodes = 1
    else:
        await by_pipeline(cluster)
        nodes = sum(node.model == "parts" for node in cluster.nodes.values())
        found = {}
    for name, node in cluster.nodes.items():
        if node.model == "parts":
            await cloud.serving(name, node.model, 2)
    spent = cloud.spent(begin) // nodes
    if found:
        story.say(f"version 2: {found['updates'][0]['bytes']:,} bytes from version 1")
    story.charge("modelsync, signed", WHAT, spent, "origin's line, TLS, both directions, a node's share")
    if not story.short:
        begin = cloud.line.counts()
        await cluster.publish(2, "parts-lite")
        await cloud.desire("node-c", "parts-lite", 2)
        await cloud.serving("node-c", "parts-lite", 2)
        story.charge(
            "modelsync, signed", "the same as TFLite", cloud.spent(begin), "origin's line, TLS, both directions"
        )
    for name, node in cluster.nodes.items():
        await node.names(2)
        cluster.mark("version 2 names frames", name)
        await node.wrote(25)
        judge(cluster, name, first[name])


def judge(cluster: Cluster, name: str, first: int) -> None:
    """What the update did to the frames of a node, from frame `first` on."""
    story, lines = cluster.story, cluster.nodes[name].lines()
    lost, twice = verdict.lost(lines), verdict.twice(lines)
    story.promise(
        f"hot swap while frames flow: each has one name ({name})",
        not lost and not twice and verdict.versions(lines)[:2] == [1, 2],
        f"frames 1 to {lines[-1]['frame']}: {len(lost)} lost, {len(twice)} twice; versions {verdict.versions(lines)}",
    )
    wrong = verdict.misnamed(lines, LABELS)
    old = [line for line in lines if line["version"] == 1]
    new = [line for line in lines if line["version"] == 2]
    ours, all_new = verdict.right(new)
    known = [line for line in old if verdict.truth(line) in FIRST_KINDS]
    before, all_old = verdict.right(known)
    story.promise(
        f"labels travel with the model as one unit ({name})",
        not wrong and ours >= 0.85 * all_new and before >= 0.85 * all_old,
        f"of the parts that it knows version 1 named {before} of {all_old} rightly, version 2 {ours} of {all_new}; "
        f"{len(wrong)} names from another version's labels",
    )
    gaskets, seen = verdict.right(new, "gasket")
    story.report.figures[f"gaskets named rightly by version 2 ({name})"] = f"{gaskets} of {seen}"
    story.report.figures[f"frames in the update ({name})"] = lines[-1]["frame"] - first


async def by_pipeline(cluster: Cluster) -> None:
    """Version 2 as the Azure DevOps pipeline releases it: its own script lines, its secrets, its gate."""
    story, cloud = cluster.story, cluster.cloud
    exports, key = story.work / "exports", story.work / "training.key"
    cluster.zip(2, "parts")
    key.write_text(KEY)
    key.chmod(0o600)
    vision = await story.process("custom-vision").start(
        *("python", "-m", "examples.camera.stand_in", "--exports", str(exports), "--key-file", str(key))
    )
    temporary = story.work / "agent"
    temporary.mkdir()
    sources = story.work / "sources"
    sources.mkdir()
    (sources / "pictures").symlink_to(cluster.references)
    asked: list[str] = []

    async def approve(instructions: str) -> bool:
        """A person looks at node-a; the others must not have version 2 yet."""
        await cluster.nodes["node-a"].names(2)
        others = {verdict.versions(node.lines())[-1] for name, node in cluster.nodes.items() if name != "node-a"}
        asked.append(f"node-a names by version 2, the others by {others}")
        story.promise("the release gate: canary first, the rest after a person", others == {1}, asked[-1])
        return True

    agent = Agent(
        {
            "STORE": cloud.store, "VAULT": "vault", "CUSTOM_VISION_ENDPOINT": vision["url"],
            "CUSTOM_VISION_PROJECT": PROJECT, "SOAK": "0s", "APPROVERS": "ada@example.com",
            "Agent.TempDirectory": str(temporary), "Build.SourcesDirectory": str(sources),
        },
        {
            "custom-vision-training-key": KEY, "modelsync-service": cloud.hub["service"],
            "modelsync-online-keys": await _packed(cloud.keys),
        },
        approve, story.say, ROOT, {"MODELSYNC_HUB_TIER": "none"},
    )  # fmt: skip
    try:
        await agent.run(PIPELINE, iteration="iteration-2")
    except PipelineError as error:
        raise StageError(f"the pipeline ended with {error.code}: {error}") from error
    story.promise(
        "the pipeline's own lines released version 2", len(asked) == 1, "five scripts, three secrets, one gate"
    )


async def _packed(keys: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", 'tar -C "$0" --exclude ./offline -c . | base64 -w 0', str(keys)),
        stdout=asyncio.subprocess.PIPE,
    )
    return (await process.communicate())[0].decode()
