"""A vehicle: edgeHub's routes between its modules, the modules, supervised, and its daemon. No story."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from examples.demo.stage import Process
from examples.stories.cloud import Cloud, register
from examples.stories.supervisor import Module
from examples.stories.telling import Story
from examples.vehicles.landing import number
from examples.vehicles.learning import MODEL

MODULES = ("stage", "scoring")
ROUTES = {
    "windows": 'FROM /messages/modules/stage/outputs/windows INTO BrokeredEndpoint("/modules/scoring/inputs/windows")',
    "answers": 'FROM /messages/modules/scoring/outputs/all INTO BrokeredEndpoint("/modules/stage/inputs/answers")',
    "errors": 'FROM /messages/modules/scoring/outputs/errors INTO BrokeredEndpoint("/modules/stage/inputs/errors")',
    "readings": "FROM /messages/modules/stage/outputs/readings INTO $upstream",
    "alarms": "FROM /messages/modules/stage/outputs/alarms INTO $upstream",
    "scores": "FROM /messages/modules/scoring/outputs/answers INTO $upstream",
}
"""As a deployment manifest has them."""

SAMPLED = "mean:4"
"""Of the scores each fourth goes up, as the mean of the four; an alarm goes at once, and by itself."""


@dataclass(slots=True)
class Vehicle:
    """One vehicle. `disk`: bytes of the disk that its data directory is on; None: the machine's."""

    name: str
    ring: str
    story: Story
    cloud: Cloud
    conditions: Path
    window_seconds: float
    modules: dict[str, Module] = field(default_factory=dict)
    daemon: Process = field(init=False)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.story.work / self.name / "data"

    async def prepare(self) -> None:
        """Register the device and its modules, with routes."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.cloud.add_device(self.name)
        for module in (*MODULES, "$edgeHub"):
            self._connection(module).write_text(register(self.cloud.hub_state, self.name, module))
        await self.cloud.service.set_desired(self.name, {"routes": ROUTES}, "$edgeHub")

    async def start(self) -> None:
        """Start daemon and modules; scoring waits for its first version."""
        config = self.data.parent / "modelsyncd.toml"
        config.write_text(self.cloud.daemon_settings(self.data, self.cloud.devices[self.name]))
        self.daemon = self.story.process(f"{self.name}-daemon")
        await self.daemon.start("modelsyncd", "run", "--config", str(config), "--verbose", ready=False)
        self.modules["scoring"] = await self.story.module(
            f"{self.name}-scoring",
            *("modelsync-infer", "--data", str(self.data), "--model", MODEL, "--port", "0", "--workers", "1", "--edge"),
            *("--edge-sample", SAMPLED, "--edge-all-output", "all"),
            *("--edge-connection-file", str(self._connection("scoring")), "--edge-ca", str(self.cloud.hub_ca)),
            ready=True,
        )
        self.modules["stage"] = await self.story.module(
            f"{self.name}-stage",
            *("python", "-m", "examples.vehicles.stage", "--vehicle", str(number(self.name))),
            *("--conditions", str(self.conditions), "--place", str(self._place), "--seconds", str(self.window_seconds)),
            *("--connection", str(self._connection("stage")), "--ca", str(self.cloud.hub_ca)),
        )

    def place(self) -> dict[str, int]:
        """How far its windows have come: {"sent", "scored"}."""
        try:
            found: dict[str, int] = json.loads(self._place.read_text())
        except FileNotFoundError:
            return {"sent": 0, "scored": 0}
        return found

    @property
    def _place(self) -> Path:
        return self.data.parent / "place.json"

    def _connection(self, module: str) -> Path:
        return self.data.parent / f"{module.lstrip('$')}.connection"
