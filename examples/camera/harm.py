"""Acts about harm: exports that must not go out, killed modules, a cut line, a full disk."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import onnx
from onnx import helper

from examples.camera import custom_vision, verdict
from examples.camera.cluster import Cluster
from examples.camera.exports import HERE, ONNX, TFLITE, nudged, packed, to_tflite, zipped
from examples.demo.stage import StageError, said
from examples.stories import faults
from examples.stories.supervisor import Module
from modelsync_server.rollout import reading

V2 = HERE / "v2"


def broken_exports(short: bool) -> dict[str, tuple[bytes, str]]:
    """By what is wrong: a zip, and a word of the sentence that refuses it. `short`: one for each who refuses."""
    model, labels = (V2 / "model.onnx").read_bytes(), (V2 / "labels.txt").read_bytes()
    good = packed(model, labels, ONNX)
    found = {
        "a label too few": (packed(model, b"".join(labels.splitlines(keepends=True)[:-1]), ONNX), "4 labels"),
        "a name that leads out": (
            zipped({"../../etc/cron.d/x": b"x", "model.onnx": model}),
            "normalised relative path",
        ),
    }
    if short:
        return found
    return found | {
        "labels in another order": (packed(model, b"washer\nspring\nnut\ngasket\nbolt\n", ONNX), "named rightly"),
        "a cut-off zip": (good[: len(good) // 2], "no whole zip file"),
        "a zip bomb": (zipped({"model.onnx": bytes(300 << 20)}), "not unpacked"),
    }


async def broken(cluster: Cluster) -> None:
    """Exports that are refused before anything is signed, by the judge or by `publish` itself."""
    story, before = cluster.story, await _newest(cluster)
    exports = await asyncio.to_thread(broken_exports, story.short)

    async def attempt(number: int, what: str, data: bytes, word: str) -> None:
        path = story.work / "exports" / f"broken-{number}.zip"
        path.write_bytes(data)
        try:
            if "label" in what:
                options = ("--pictures", str(cluster.references))
                await said("python", "-m", "examples.camera.custom_vision", "check", str(path), *options)
            else:
                await cluster.publish_zip(path, "parts")
            refused = ""
        except StageError as error:
            refused = str(error).partition("failed: ")[2]
        story.promise(f"{what}: refused before it is signed", word in refused, refused or "it was taken")

    await asyncio.gather(*(attempt(number, what, *each) for number, (what, each) in enumerate(exports.items())))
    after = await _newest(cluster)
    story.promise("what was refused left nothing in the store", before == after, f"the newest is version {after} still")


async def _newest(cluster: Cluster) -> int:
    found = await cluster.cloud.modelsync("show", cluster.cloud.store, "parts", "--quick")
    return int(found["version"])


def colours_swapped(data: bytes) -> bytes:
    """A model that wants red first: well-formed, and what a wrong line in preprocessing makes. Its probe shows it."""
    made = onnx.load_from_string(data)
    order = helper.make_tensor("order", onnx.TensorProto.INT64, [3], [2, 1, 0])
    made.graph.initializer.append(order)
    made.graph.node[0].input[0] = "swapped"
    made.graph.node.insert(0, helper.make_node("Gather", [made.graph.input[0].name, "order"], ["swapped"], axis=1))
    onnx.checker.check_model(made)
    found: bytes = made.SerializeToString(deterministic=True)
    return found


async def stopped(cluster: Cluster) -> None:
    """A signed version whose recorded answers are not its own: node-a refuses it, node-b never hears of it."""
    story = cluster.story
    probe, path = story.work / "probe.json", story.work / "exports" / "swapped.zip"
    await asyncio.to_thread(_recorded, cluster, probe)
    data = await asyncio.to_thread(colours_swapped, (V2 / "model.onnx").read_bytes())
    path.write_bytes(packed(data, (V2 / "labels.txt").read_bytes(), ONNX))
    version = int((await cluster.publish_zip(path, "parts", probe, "fast"))["version"])
    cluster.mark(f"version {version}, colours swapped", "node-a")
    failed = await cluster.roll("parts", version)
    status = await reading.status(cluster.cloud.service, "parts")
    why = status.record.why if failed else "it went through"
    for name in ("node-a", "node-b"):
        await cluster.nodes[name].wrote(5)
    seen = {name: verdict.versions(cluster.nodes[name].lines()) for name in ("node-a", "node-b")}
    twin = await cluster.cloud.service.twin("node-b")
    wish = twin["properties"]["desired"].get("modelsync", {}).get("models", {}).get("parts", {}).get("version")
    story.promise(
        "a version whose colours are swapped is refused by its probe on the canary; the rollout's exit code says so",
        bool(failed) and "refused" in why and not any(version in each for each in seen.values()) and wish != version,
        f"{why} node-a: {_said(cluster, 'node-a', version)} node-b wishes for version {wish} still",
    )
    await cluster.cloud.modelsync("rollout", "abort", "parts", "--yes", "--by", "ada")


def _recorded(cluster: Cluster, probe: Path) -> None:
    custom_vision.check(cluster.zip(2, "parts"), cluster.references, 0.9, probe)


def _said(cluster: Cluster, name: str, version: int) -> str:
    """What a scoring pod of a node wrote of a version that it refused."""
    text = (cluster.story.logs / f"{name}-scoring-0.log").read_text()
    found = re.search(rf"version {version} is refused: (.*)", text)
    return found[1] if found else "nothing is said."


async def _refusal(cluster: Cluster, name: str) -> str:
    reported = await cluster.cloud.reported(name, cluster.nodes[name].model)
    return str((reported.get("error") or {}).get("text", "it says nothing"))


async def killed(cluster: Cluster, name: str) -> None:
    """Kill -9 of a scoring pod and of the camera: no frame is lost, none is named twice."""
    story, node = cluster.story, cluster.nodes[name]
    assert node.camera is not None
    for what, module in (("a scoring pod", node.pods[0]), ("the camera", node.camera)):
        first = cluster.mark(f"kill -9 of {what}", name)[name]
        before = module.restarts
        await module.kill()

        async def back(before: int = before, module: Module = module) -> bool:
            return module.restarts > before

        await story.until(f"the restart of {what}", back)
        await node.wrote(20)
        lines = node.lines()
        lost, twice = verdict.lost(lines), verdict.twice(lines)
        again = sum(line["asked"] > 1 for line in lines if line["frame"] > first)
        story.promise(
            f"kill -9 of {what}: no frame is lost, none is named twice",
            not lost and not twice,
            f"frames {first + 1} to {lines[-1]['frame']}: {len(lost)} lost, {len(twice)} twice, {again} asked again",
        )


async def cut_and_killed(cluster: Cluster) -> None:
    """The line to the origin breaks in mid-update, and the daemon is killed meanwhile: the update is finished later."""
    story, cloud, node = cluster.story, cluster.cloud, cluster.nodes["node-b"]
    path = story.work / "exports" / "night.zip"
    data = await asyncio.to_thread(nudged, (V2 / "model.onnx").read_bytes(), 3)
    path.write_bytes(packed(data, (V2 / "labels.txt").read_bytes(), ONNX))
    published = await cluster.publish_zip(path, "parts")
    version = int(published["version"])
    price = min(int(each["bytes"]) for each in published["updates"])
    story.report.figures["update where every weight moved by 0.001, without TLS and trust, bytes"] = price
    cluster.mark("line cut, daemon killed", "node-b")
    cloud.line.cut_after(4000, refuse=True)
    await _above_the_rollouts(cluster, "node-b", "parts", version)

    async def broke() -> bool:
        return bool(cloud.line.refusing)

    await story.until("the cut of the line to the origin", broke)
    assert node.daemon is not None
    await node.daemon.kill()
    await node.wrote(10)
    still = verdict.versions(node.lines())[-1]
    cloud.line.restore()
    await node.names(version)
    lines = node.lines()
    story.promise(
        "a cut line and a killed daemon in mid-update: pods serve on, the update is finished afterwards",
        still == 2 and not verdict.lost(lines) and not verdict.twice(lines),
        f"version {still} named frames meanwhile, then version {version}; {len(verdict.lost(lines))} frames lost",
    )


async def full_disk(cluster: Cluster) -> None:
    """node-c's disk is full: the update is refused in a sentence, what serves goes on; with room it comes."""
    story, cloud, node = cluster.story, cluster.cloud, cluster.nodes["node-c"]
    if not node.disk:
        return
    path = story.work / "exports" / "night-lite.zip"
    data = await asyncio.to_thread(nudged, (V2 / "model.onnx").read_bytes(), 4)
    path.write_bytes(packed(await asyncio.to_thread(to_tflite, data), (V2 / "labels.txt").read_bytes(), TFLITE))
    version = int((await cluster.publish_zip(path, "parts-lite", effort="fast"))["version"])
    ballast = faults.fill(node.data, leave=16384)
    cluster.mark("disk full", "node-c")
    await cloud.desire("node-c", "parts-lite", version)

    async def refused() -> bool:
        return "says nothing" not in await _refusal(cluster, "node-c")

    await story.until("the refusal of an update without room", refused)
    why = await _refusal(cluster, "node-c")
    await node.wrote(10)
    still = verdict.versions(node.lines())[-1]
    ballast.unlink()  # it tries again by itself
    await node.names(version)
    lines = node.lines()
    story.promise(
        "a full disk refuses the update, frames are named on; with room it comes",
        still == 2 and not verdict.lost(lines),
        f"{why} Version {still} meanwhile, then version {version}",
    )


async def _above_the_rollouts(cluster: Cluster, name: str, model: str, version: int) -> None:
    """Have a node desire a version whatever rollouts have left: by a configuration above theirs."""
    body = {
        "id": f"by-hand-{version}",
        "content": {"deviceContent": {f"properties.desired.modelsync.models.{model}": {"version": version}}},
        "targetCondition": f"deviceId = '{name}'",
        "priority": 1_000_000 + version,
        "labels": {},
    }
    await cluster.cloud.service.put_configuration(f"by-hand-{version}", body)
