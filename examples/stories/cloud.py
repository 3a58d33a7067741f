"""What stands for the cloud in a story: a hub, a store with its origin, and the line to it, which counts and breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.demo.relay import Counts, Relay
from examples.demo.stage import free_address, run
from examples.stories.telling import Story
from modelsync_server.hub.certificates import ensure
from modelsync_server.hub.hub import add_device
from modelsync_server.hub.state import State
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient

Json = dict[str, Any]


class Cloud:
    """`await Cloud(story).start()`: hub, store, origin (TLS); `line` is the relay through which devices reach it."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.store, self.keys = str(story.work / "store"), story.work / "keys"
        self.hub_state = story.work / "hub"
        self.hub: Json = {}
        self.devices: dict[str, str] = {}
        """Connection strings of devices that were added here."""
        self.trust, self.origin_ca = Path(), Path()
        self.inside = ""
        """The origin's URL without the line: for what stands in the cloud itself."""
        self.line: Relay
        self.service: ServiceClient

    async def start(self) -> Cloud:
        """Start everything; it ends with the story."""
        story = self._story
        self.hub = await story.process("hub").start(
            *("modelsync", "hub", "--state", str(self.hub_state), "--host", free_address(8883)),
            *("--service-port", "0", "--evaluate-every", "1", "--json"),
        )
        story.environment |= {
            "MODELSYNC_KEYS": str(self.keys), "MODELSYNC_SERVICE": self.hub["service"], "MODELSYNC_HUB_TIER": "none",
        }  # fmt: skip
        self.service = await story.stack.enter_async_context(ServiceClient(parse_service(self.hub["service"])))
        self.trust = Path((await self.modelsync("init", self.store, "--keys", str(self.keys)))["trust"])
        tls = story.work / "tls"
        tls.mkdir(exist_ok=True)
        certificates = ensure(tls, "127.0.0.1")
        self.origin_ca = certificates.ca
        origin = await story.process("origin").start(
            *("modelsync", "serve", self.store, "--tls-cert", str(certificates.server)),
            *("--tls-key", str(certificates.server_key)),
        )
        self.inside = origin["url"]
        self.line = await story.stack.enter_async_context(Relay("127.0.0.1", int(self.inside.rpartition(":")[2])))
        return self

    @property
    def origin(self) -> str:
        """The origin's URL for devices: behind the line."""
        return f"https://127.0.0.1:{self.line.port}"

    @property
    def hub_ca(self) -> Path:
        """The CA of the hub."""
        return Path(self.hub["ca"])

    async def modelsync(self, *arguments: str) -> Any:
        """One of the publisher's or operator's commands, answered in JSON."""
        return await run("modelsync", *arguments, "--json", environment=self._story.environment)

    async def publish(self, name: str, artifact: Path, *options: str) -> Json:
        """Publish a version of model `name`."""
        found = await self.modelsync("publish", self.store, name, str(artifact), *options)
        assert isinstance(found, dict)
        return found

    def add_device(self, device: str, module: str | None = None) -> str:
        """A connection string of a new device or module."""
        text = register(self.hub_state, device, module)
        if module is None:
            self.devices[device] = text
        return text

    async def desire(self, device: str, name: str, version: int) -> None:
        """Set what a device should have, in its twin."""
        await self.service.set_desired(device, {"modelsync": {"models": {name: {"version": version}}}})

    async def reported(self, device: str, name: str) -> Json:
        """What a device reports of a model."""
        twin = await self.service.twin(device)
        found = twin["properties"]["reported"].get("modelsync", {}).get("models", {}).get(name, {})
        return found if isinstance(found, dict) else {}

    async def serving(self, device: str, name: str, version: int) -> Json:
        """Wait until the device reports `version` as active."""

        async def active() -> bool:
            found = await self.reported(device, name)
            return found.get("version") == version and found.get("state") == "active"

        await self._story.until(f"{name} version {version} on {device}", active)
        return await self.reported(device, name)

    def daemon_settings(self, data: Path, connection_string: str, **more: str | int | float) -> str:
        """A modelsyncd.toml for a device of this cloud."""
        settings: dict[str, str | int | float] = {
            "data": str(data), "trust": str(self.trust), "ca": str(self.hub_ca), "origin": self.origin,
            "origin_ca": str(self.origin_ca), "connection_string": connection_string, "probation_seconds": 1,
            "startup_spread_seconds": 0,
        }  # fmt: skip
        settings |= more
        return "".join(f"{key} = {_toml(value)}\n" for key, value in settings.items())

    def spent(self, begin: Counts) -> int:
        """Bytes on the line to the origin since `begin` (a `line.counts()`), both directions, TLS included."""
        since = self.line.counts() - begin
        return since.up + since.down


def register(hub_state: Path, device: str, module: str | None = None) -> str:
    """`modelsync hub device add`, without a process of its own: a connection string."""
    with State(hub_state) as state:
        return add_device(state, Identity(device, module))


def _toml(value: str | int | float) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
