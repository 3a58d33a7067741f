"""The cluster as the story sees it: the cloud, the nodes, the frames, what was published. No acts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from PIL import Image

from examples.camera import custom_vision
from examples.camera.exports import ONNX, TFLITE, export
from examples.camera.node import Node
from examples.camera.pictures import FIRST_KINDS, KINDS, picture
from examples.demo.stage import StageError, said
from examples.stories.cloud import Cloud, Json
from examples.stories.telling import Story

NODES = (("node-a", "onnx"), ("node-b", "onnx"), ("node-c", "tflite"))
PLATFORMS = {"parts": ONNX, "parts-lite": TFLITE}
DISK = 24_000_000
"""Bytes of node-c's disk, so that it can be full."""

_FRAMES, _REFERENCES = 120, 4


class Cluster:
    """Everything that runs."""

    def __init__(self, story: Story, nodes: tuple[tuple[str, str], ...]) -> None:
        self.story = story
        self._wanted = nodes
        self.nodes: dict[str, Node] = {}
        self.cloud: Cloud
        self.frames, self.references = story.work / "frames", story.work / "pictures"
        self.marks: list[tuple[str, int, str]] = []
        """(node, frame, what) of what the picture tells."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the nodes serve."""
        return tuple(dict.fromkeys(node.model for node in self.nodes.values()))

    async def start(self) -> None:
        """The cloud, the frames, and nodes that have no model yet."""
        self.cloud, _ = await asyncio.gather(Cloud(self.story).start(), asyncio.to_thread(self._draw))
        for name, runtime in self._wanted:
            self.cloud.add_device(name)
            disk = DISK if runtime == "tflite" else 0
            self.nodes[name] = Node(name, runtime, self.story, self.cloud, self.frames, disk)
        await self.cloud.service.change_registry(
            [
                {"id": name, "importMode": "updateTwin", "tags": {"runtime": node.runtime, "canary": name == "node-a"}}
                for name, node in self.nodes.items()
            ]
        )
        if not self.story.short:  # what carries rollouts on: a service, or a scheduled pipeline
            command = ("modelsync", "rollout", "run", "--store", self.cloud.store, "--poll", "0.5")
            await self.story.process("rollouts").start(*command, ready=False)
        await asyncio.gather(*(node.join() for node in self.nodes.values()))

    def _draw(self) -> None:
        """Frames of a belt on which a new kind of part turns up, and reference pictures of each kind."""
        rng = np.random.default_rng(11)
        self.frames.mkdir()
        for number in range(_FRAMES):
            kind = KINDS[int(rng.integers(0, len(KINDS)))]
            Image.fromarray(picture(kind, rng)).save(self.frames / f"{number:04}-{kind}.png")
        for kind in KINDS:
            (self.references / kind).mkdir(parents=True)
            for number in range(_REFERENCES):
                name = "probe.png" if number == 0 and kind in FIRST_KINDS[:2] else f"{number}.png"
                Image.fromarray(picture(kind, rng)).save(self.references / kind / name)

    def references_of(self, kinds: tuple[str, ...]) -> Path:
        """A folder with the reference pictures of these kinds only."""
        folder = self.story.work / f"pictures-{len(kinds)}"
        if not folder.exists():
            folder.mkdir()
            for kind in kinds:
                (folder / kind).symlink_to(self.references / kind)
        return folder

    def zip(self, version: int, model: str, data: bytes | None = None) -> Path:
        """The export of a version for a model, as a file."""
        path = self.story.work / "exports" / f"iteration-{version}-{PLATFORMS[model]}.zip"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(export(version, PLATFORMS[model]) if data is None else data)
        return path

    async def publish(self, version: int, model: str) -> Json:
        """Judge an export and publish it, as the pipeline does."""
        path, probe = self.zip(version, model), self.story.work / "probe.json"
        known = self.references_of(FIRST_KINDS if version == 1 else KINDS)
        share = await asyncio.to_thread(custom_vision.check, path, known, 0.9, probe)
        self.story.say(f"{model} version {version}: {share:.0%} of the reference pictures are named rightly")
        return await self.publish_zip(path, model, probe)

    async def publish_zip(self, path: Path, model: str, probe: Path | None = None, effort: str = "default") -> Json:
        """`modelsync publish … zip:FILE`."""
        more = ("--effort", effort, *(() if probe is None else ("--probe", str(probe))))
        found = await self.cloud.modelsync("publish", self.cloud.store, model, f"zip:{path}", *more)
        assert isinstance(found, dict)
        return found

    def mark(self, what: str, *names: str) -> dict[str, int]:
        """Note what happens now on these nodes (all, if none is named); the frame that each has come to."""
        found = {}
        for name in names or self.nodes:
            lines = self.nodes[name].lines()
            found[name] = int(lines[-1]["frame"]) if lines else 0
            self.marks.append((name, found[name], what))
        return found

    async def roll(self, model: str, version: int, condition: str = "") -> str:
        """A rollout over the nodes of a model, node-a first; why it stopped, or nothing."""
        runtime = next(node.runtime for node in self.nodes.values() if node.model == model)
        rings = [f"canary:tags.runtime = '{runtime}' AND tags.canary = true"] if runtime == "onnx" else []
        rings.append(f"rest:tags.runtime = '{runtime}'")
        words = [word for ring in rings for word in ("--ring", ring)]
        environment = self.story.environment
        await self.cloud.modelsync(
            *("rollout", "start", self.cloud.store, model, "--version", str(version), *words, "--active", "100%"),
            *("--failures", "2%", "--soak", "0s", "--yes", "--by", "ada", "--no-push"),
        )
        try:
            await said("modelsync", "rollout", "watch", model, "--every", "1", environment=environment)
        except StageError as error:
            return str(error)
        return ""
