"""What the operator of the demo has at hand: the fleet, the commands, patience, a picture of a ring. No story."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from examples.demo.stage import StageError, run, said
from examples.demo.telling import Telling
from examples.fleet.devices import MODEL, Client, Cloud, Daemon
from examples.fleet.report import FleetReport
from examples.fleet.rings import Part
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.rollout import reading
from modelsync_server.rollout.reading import RingStatus, RolloutStatus
from modelsync_server.rollout.record import OVER

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ROOT / "examples" / "digits" / "int8"
GATE = ("--active", "100%", "--failures", "2%", "--soak", "0s")
PRICE = ("--price-per-gb", "4000")
_WAIT_SECONDS = 90.0

Json = dict[str, Any]


class Fleet(Telling):
    """The story's state: what runs, which devices there are, what was seen."""

    def __init__(self, console: Console, parts: Sequence[Part], work: Path) -> None:
        super().__init__(console)
        self.parts, self.work = parts, work
        self.store = str(work / "store")
        self.environment = {"MODELSYNC_KEYS": str(work / "keys"), "MODELSYNC_HUB_TIER": "none"}
        self.daemons: dict[str, Daemon] = {}
        self.clients: dict[str, Client] = {}
        self.before: dict[str, Json] = {}
        self.page = ""
        self.report = FleetReport(sum(part.devices for part in parts), sum(part.daemons for part in parts))
        self.cloud: Cloud
        self.service: ServiceClient

    async def modelsync(self, *arguments: str) -> Any:
        """One of the operator's commands, answered in JSON."""
        return await run("modelsync", *arguments, "--json", environment=self.environment)

    async def show(self, *arguments: str) -> None:
        """One of the operator's commands, as the operator sees it."""
        typed = " ".join(["modelsync", *map(_typed, arguments)]).replace(f"{self.work}/", "")
        self.console.print(f"  [dim]$ {escape(typed)}[/]", soft_wrap=True)
        text = await said("modelsync", *arguments, environment=self.environment)
        for line in text.rstrip().splitlines():
            self.console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)

    async def publish(self, folder: str, *options: str) -> Json:
        """Publish a version of the example model with its probe."""
        artifact, probe = VERSIONS / folder / "model.onnx", VERSIONS / folder / "probe.json"
        found = await self.modelsync("publish", self.store, MODEL, str(artifact), "--probe", str(probe), *options)
        assert isinstance(found, dict)
        return found

    async def twins(self) -> dict[str, Json]:
        """Every device's twin."""
        return {str(each["deviceId"]): each async for each in self.service.query("SELECT * FROM devices")}

    async def step(self) -> None:
        """`modelsync rollout step`, as cron would; what it did is printed."""
        text = await said("modelsync", "rollout", "step", "--store", self.store, environment=self.environment)
        for line in text.splitlines():
            self.console.print(f"  [dim]rollout step:[/] {escape(line)}", highlight=False, soft_wrap=True)

    async def until(self, what: str, test: Callable[[], Awaitable[bool]]) -> None:
        """Wait until `test` holds."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not await test():
            gone = [client.trouble for client in self.clients.values() if client.trouble]
            if gone or time.monotonic() > deadline:
                reason = "; ".join(gone) or f"see {self.work.name}/logs"
                raise StageError(f"{what} did not come about within {_WAIT_SECONDS:.0f} s: {reason}")
            await asyncio.sleep(0.25)

    async def answered(self) -> None:
        """Wait until every device of the open ring has said how it went; draw the rings as they fill."""
        drawn = -1

        async def all_answered() -> bool:
            nonlocal drawn
            status = await reading.status(self.service, MODEL, spending=False)
            ring = status.rings[status.record.ring]
            quarter = ring.counts.answered * 4 // max(ring.record.devices, 1)
            if quarter > drawn:  # a line for each quarter that the ring has filled
                self.console.print(f"  {_lane(ring)}", highlight=False)
            drawn = max(quarter, drawn)
            return ring.counts.answered >= ring.record.devices

        await self.until("an answer of every device of the ring", all_answered)

    async def roll(self, *rings: str) -> RolloutStatus | None:
        """Start a rollout and step it whenever a ring has answered; its status if it stopped, None if not."""
        ringed = [word for ring in rings for word in ("--ring", ring)]
        await self.show("rollout", "plan", self.store, MODEL, *ringed, *PRICE)
        await self.modelsync("rollout", "start", self.store, MODEL, *ringed, *GATE, *PRICE, "--yes", "--by", "ada")
        while True:
            overview = await reading.overview(self.service)
            if not overview.rollouts:
                return None
            if overview.rollouts[0].record.state in OVER:
                return await reading.status(self.service, MODEL)
            await self.answered()
            await self.step()


def _typed(word: str) -> str:
    """A word as a person would type it into a shell."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\') else shlex.quote(word)


def _lane(ring: RingStatus) -> str:
    """A ring as a bar: who serves the version, who failed, who is asked, of all."""
    width, all_of = 24, max(ring.record.devices, 1)
    good, bad = ring.counts.active * width // all_of, -(-ring.counts.failed * width // all_of)
    bar = f"[green]{'█' * good}[/][red]{'█' * bad}[/][dim]{'░' * (width - good - bad)}[/]"
    failed = f", [red]{ring.counts.failed} refused it[/]" if ring.counts.failed else ""
    return f"{ring.name:<7} {bar} {ring.counts.active} of {ring.record.devices} serve it{failed}"


def reported(twin: Json) -> Json:
    found = twin["properties"]["reported"].get("modelsync", {}).get("models", {}).get(MODEL, {})
    return found if isinstance(found, dict) else {}
