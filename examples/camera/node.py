"""One node of the cluster: its daemon, two scoring pods that share its data directory, its camera. No story.

What they run is what the cluster's manifests say (k3s.yaml): the containers' `args`, with this machine's places.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from examples.stories import faults
from examples.stories.cloud import Cloud
from examples.stories.supervisor import Module
from examples.stories.telling import Story

MANIFESTS = Path(__file__).with_name("k3s.yaml")
PODS = 2
RATE = 8.0
"""Frames a second of each camera."""


def containers(path: Path = MANIFESTS) -> dict[str, Sequence[str]]:
    """`args` of each workload's container, by the workload's name."""
    found = {}
    for document in yaml.safe_load_all(path.read_text()):
        if document and document["kind"] in ("DaemonSet", "Deployment"):
            (container,) = document["spec"]["template"]["spec"]["containers"]
            found[document["metadata"]["name"]] = container["args"]
    return found


def placed(arguments: Sequence[str], places: Mapping[str, str | Sequence[str]]) -> list[str]:
    """`arguments` with the value of each option in `places` replaced; several values repeat the option."""
    made: list[str] = []
    words = iter(arguments)
    for word in words:
        values = places.get(word)
        if values is None:
            made.append(word)
            continue
        next(words)
        for value in [values] if isinstance(values, str) else values:
            made += [word, value]
    return made


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now: a pod keeps its own when it is started again."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass(slots=True)
class Node:
    """A node by its name. `runtime`: its label, `onnx` or `tflite`."""

    name: str
    runtime: str
    story: Story
    cloud: Cloud
    frames: Path
    disk: int = 0
    """Bytes of its disk; 0: as large as this machine's."""

    pods: list[Module] = field(default_factory=list)
    camera: Module | None = None
    daemon: Module | None = None
    sealed: str = ""
    """Why pods could write to the data directory, if they could."""

    @property
    def model(self) -> str:
        """Which model it serves."""
        return "parts" if self.runtime == "onnx" else "parts-lite"

    @property
    def _folder(self) -> Path:
        return self.story.work / self.name

    @property
    def data(self) -> Path:
        """The node's data directory, as its daemon sees it."""
        return self._folder / "data"

    @property
    def view(self) -> Path:
        """The same, as its pods see it."""
        return self.data if self.sealed else self._folder / "mounted"

    @property
    def results(self) -> Path:
        """What the camera wrote down."""
        return self._folder / "frames.jsonl"

    async def join(self) -> None:
        """Start the daemon: it follows the node's twin."""
        self.data.mkdir(parents=True)
        if self.disk and (refused := faults.small_disk(self.data, self.disk)):
            self.story.not_tried(f"a full disk: {refused}")
            self.disk = 0
        self.sealed = faults.read_only(self.data, self._folder / "mounted")
        config = self._folder / "modelsyncd.toml"
        config.write_text(self.cloud.daemon_settings(self.data, self.cloud.devices[self.name]))
        command = placed(containers()["modelsyncd"], {"--config": str(config)})
        self.daemon = await self.story.module(f"{self.name}-daemon", *command)

    async def start(self) -> None:
        """Start the scoring pods and the camera."""
        lite = "" if self.runtime == "onnx" else "-lite"
        ports = free_ports(PODS)
        for number, port in enumerate(ports):
            places = {"--data": str(self.view), "--port": str(port), "--host": "127.0.0.1"}
            command = placed(containers()[f"scoring{lite}"], places)
            self.pods.append(await self.story.module(f"{self.name}-scoring-{number}", *command, ready=True))
        command = placed(
            containers()[f"camera{lite}"],
            {
                "--source": str(self.frames), "--rate": str(RATE), "--data": str(self.view),
                "--scoring": [f"http://127.0.0.1:{port}" for port in ports], "--results": str(self.results),
            },
        )  # fmt: skip
        self.camera = await self.story.module(f"{self.name}-camera", *command)

    def lines(self) -> list[dict[str, Any]]:
        """What the camera wrote down, in its order; a last line that is not whole yet is left out."""
        if not self.results.exists():
            return []
        return [json.loads(line) for line in self.results.read_bytes().split(b"\n")[:-1]]

    async def wrote(self, count: int) -> int:
        """Wait for `count` more lines; the last frame's number."""
        wanted = len(self.lines()) + count

        async def reached() -> bool:
            return len(self.lines()) >= wanted

        await self.story.until(f"{count} more frames of {self.name}", reached)
        return int(self.lines()[-1]["frame"])

    async def names(self, version: int, count: int = 3) -> None:
        """Wait until the last `count` frames were named by `version`."""

        async def reached() -> bool:
            lines = self.lines()[-count:]
            return len(lines) == count and all(line["version"] == version and line["label"] for line in lines)

        await self.story.until(f"frames named by version {version} on {self.name}", reached)
