"""A line's device: edgeHub's routes between its services, the services, supervised, and its daemon. No story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.demo.relay import Relay
from examples.demo.stage import Process, free_address, run
from examples.stories.cloud import Cloud, Json, register
from examples.stories.supervisor import Module
from examples.stories.telling import Story
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.service_client import ServiceClient

MODEL = "feed"
SERVICES = ("collector", "windowing", "scoring", "actuator", "historian")


def _route(source: str, module: str, where: str = "") -> str:
    target, _, name = module.partition("/")
    sink = f'BrokeredEndpoint("/modules/{target}/inputs/{name}")'
    return f"FROM /messages/modules/{source.replace('/', '/outputs/')} {where and f'WHERE {where} '}INTO {sink}"


ROUTES = {
    "rows": _route("collector/rows", "windowing/rows"),
    "kept": _route("collector/rows", "historian/rows"),
    "windows": _route("windowing/windows", "scoring/windows", "quality = 'good'"),
    "unfit": _route("windowing/windows", "actuator/unfit", "quality != 'good'"),
    "answers": _route("scoring/answers", "actuator/answers"),
    "errors": _route("scoring/errors", "actuator/errors"),
    "decisions": _route("actuator/decisions", "historian/decisions"),
}
"""As a deployment manifest has them."""

TRIAL_SECONDS = 5
SHADOW = ("--shadow", "1", "--trial-seconds", str(TRIAL_SECONDS), "--min-agreement", "0.9")
"""For so long a new version's set-points are compared with the old one's, and none of them is written."""


@dataclass(slots=True)
class EdgeHub:
    """The hub that stands for a device's edgeHub: the surface's is the cloud's, the level underground has its own."""

    state: Path
    ca: Path
    service: ServiceClient


async def own_hub(story: Story, name: str) -> EdgeHub:
    """A hub of its own, for a place without a line."""
    state = story.work / name
    said = await story.process(name).start(
        *("modelsync", "hub", "--state", str(state), "--host", free_address(8883), "--service-port", "0", "--json")
    )
    service = await story.stack.enter_async_context(ServiceClient(parse_service(said["service"])))
    return EdgeHub(state, Path(said["ca"]), service)


@dataclass(slots=True)
class LineDevice:
    """One production line's device. `plant`: the line to the plant's OPC UA server, which can be cut."""

    name: str
    story: Story
    cloud: Cloud
    hub: EdgeHub
    plant: Relay
    pi: str
    login: Path
    modules: dict[str, Module] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The device's data directory."""
        return self.story.work / self.name / "data"

    @property
    def config(self) -> Path:
        """The daemon's settings."""
        return self.story.work / self.name / "modelsyncd.toml"

    async def prepare(self) -> None:
        """Register the device and its modules at its edgeHub, with routes."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        for module in (*SERVICES, "$edgeHub"):
            self._connection(module).write_text(register(self.hub.state, self.name, module))
        await self.hub.service.set_desired(self.name, {"routes": ROUTES}, "$edgeHub")

    async def follow(self, connection_string: str) -> Process:
        """Start the daemon: it follows the device's twin."""
        self.config.write_text(self.cloud.daemon_settings(self.data, connection_string))
        daemon = self.story.process(f"{self.name}-daemon")
        await daemon.start("modelsyncd", "run", "--config", str(self.config), "--verbose", ready=False)
        return daemon

    async def start(self, trial: Sequence[str] = SHADOW) -> None:
        """Start all services."""
        url = f"opc.tcp://127.0.0.1:{self.plant.port}/mine"
        own: dict[str, tuple[str, ...]] = {
            "collector": ("--plant", url, "--place", str(self.data.parent / "collector.json")),
            "windowing": (),
            "actuator": ("--plant", url),
            "historian": ("--pi", self.pi, "--login", str(self.login)),
        }
        await self.score(trial)
        for service, options in own.items():
            given = ("--line", self.name, "--connection", str(self._connection(service)), "--ca", str(self.hub.ca))
            command = ("python", "-m", f"examples.mine.{service}", *given, *options)
            self.modules[service] = await self.story.module(f"{self.name}-{service}", *command)

    async def score(self, trial: Sequence[str] = SHADOW) -> None:
        """Start the scoring service, or start it anew under other rules for trials."""
        if "scoring" in self.modules:
            await self.modules["scoring"].stop()
        self.modules["scoring"] = await self.story.module(
            f"{self.name}-scoring",
            *("modelsync-infer", "--data", str(self.data), "--model", MODEL, "--port", "0", "--edge"),
            *("--edge-connection-file", str(self._connection("scoring")), "--edge-ca", str(self.hub.ca), *trial),
            ready=True,
        )

    async def brought(self, stick: Path) -> Json:
        """`modelsyncd import` of a stick: what a person with a stick does where there is no line."""
        found = await run(
            *("modelsyncd", "import", str(stick), "--data", str(self.data), "--trust", str(self.cloud.trust), "--json")
        )
        assert isinstance(found, dict)
        return found

    def _connection(self, module: str) -> Path:
        return self.data.parent / f"{module.lstrip('$')}.connection"
