"""The mine as the story sees it: plant, historian and lines, what was archived, and how the story waits. No acts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from asyncua import Client, ua

from examples.demo.relay import Relay
from examples.demo.stage import StageError, said
from examples.mine import tags, verdict
from examples.mine.historian import POINTS, PiWebApi
from examples.mine.line import Limits
from examples.mine.verdict import LineLog
from examples.mine.wiring import MODEL, SHADOW, EdgeHub, LineDevice, own_hub
from examples.stories.cloud import Cloud, Json
from examples.stories.telling import Story
from modelsync_server.rollout import reading
from modelsync_server.rollout.reading import RolloutStatus

HERE = Path(__file__).parent
SURFACE = ("mill-1", "mill-2")
UNDERGROUND = "level-3"
LIMITS = Limits()


class Mine:
    """Everything that runs, by the story's acts to be used. `names`: the lines that there are."""

    def __init__(self, story: Story, names: Sequence[str]) -> None:
        self.story, self.names = story, tuple(names)
        self.lines: dict[str, LineDevice] = {}
        self.marks: list[tuple[float, str, str]] = []
        """(time, line, what) of what the picture tells."""
        self._log = story.work / "plant.jsonl"
        self.cloud: Cloud
        self.pi: PiWebApi
        self.opc = ""

    async def start(self) -> None:
        """The plant, the historian, the cloud, and a device for each line, not yet with a model."""
        story = self.story
        login = story.work / "pi.login"
        login.write_text("collector:underground\n")
        login.chmod(0o600)
        plant, pi, self.cloud = await asyncio.gather(
            story.process("plant").start(
                *("python", "-m", "examples.mine.plant", "--lines", ",".join(self.names), "--log", str(self._log))
            ),
            story.process("pi").start(
                *("python", "-m", "examples.mine.pi_web_api", "--login", str(login), "--points"),
                ",".join(f"{line}.{point}" for line in self.names for point in POINTS),
            ),
            Cloud(story).start(),
        )
        self.opc = plant["url"]
        session = await story.stack.enter_async_context(aiohttp.ClientSession())
        self.pi = PiWebApi(pi["url"], "MINE", login.read_text().strip(), session)
        surface = EdgeHub(self.cloud.hub_state, self.cloud.hub_ca, self.cloud.service)
        below = await own_hub(story, "level-hub") if UNDERGROUND in self.names else surface
        for name in self.names:
            self.cloud.add_device(name)
            line = await story.stack.enter_async_context(Relay("127.0.0.1", plant["port"]))
            hub = below if name == UNDERGROUND else surface
            self.lines[name] = LineDevice(name, story, self.cloud, hub, line, pi["url"], login)
            await self.lines[name].prepare()
        await self.tag()

    @property
    def surface(self) -> list[str]:
        """The lines that have a line to the cloud."""
        return [name for name in self.names if name != UNDERGROUND]

    # What happened

    def log(self, line: str) -> LineLog:
        """What the plant wrote down of a line so far."""
        return verdict.read_log(self._log).get(line, LineLog())

    def mark(self, line: str, what: str) -> int:
        """Remember, for the picture, that `what` happened now; the line's newest scan."""
        log = self.log(line)
        self.marks.append((log.scans[-1]["t"], line, what))
        return log.last

    async def rows(self, line: str) -> list[int]:
        """The scans that the historian has."""
        return [int(value["Value"]) for value in await self.pi.recorded(f"{line}.Scan")]

    async def decisions(self, line: str) -> dict[int, Json]:
        """By scan what was decided: {version, verdict, asked}, as the historian has it."""
        scans, versions, verdicts, asked = await asyncio.gather(
            *(self._by_time(line, point) for point in ("Decided", "ModelVersion", "Verdict", "Asked"))
        )
        return {
            int(scan): {"version": int(versions[stamp]), "verdict": verdicts[stamp], "asked": asked.get(stamp)}
            for stamp, scan in scans.items()
            if stamp in versions and stamp in verdicts
        }

    async def _by_time(self, line: str, point: str) -> Mapping[str, Any]:
        return {value["Timestamp"]: value["Value"] for value in await self.pi.recorded(f"{line}.{point}")}

    # Waiting

    async def advised(self, line: str, version: int, scans: int = 6) -> None:
        """Wait until the newest decisions of a line come from `version` and the plant follows advice."""
        since = self.log(line).last

        async def reached() -> bool:
            newest = [d for scan, d in sorted((await self.decisions(line)).items()) if scan > since][-scans:]
            from_it = len(newest) == scans and all(each["version"] in (version, 0) for each in newest)
            return from_it and self.log(line).scans[-1]["source"] == "advice"

        await self.story.until(f"set-points of version {version} on {line}", reached)

    async def archived(self, line: str, scan: int) -> None:
        """Wait until the historian has the rows of a line up to `scan`, and whoever decided has come by."""

        async def reached() -> bool:
            rows, decided = await self.rows(line), await self.decisions(line)
            return max(rows, default=0) >= scan and max(decided, default=0) >= scan

        await self.story.until(f"scan {scan} of {line} in the historian", reached)

    async def scans(self, line: str, count: int) -> None:
        """Let the plant go on for `count` scans."""
        wanted = self.log(line).last + count

        async def reached() -> bool:
            return self.log(line).last >= wanted

        await self.story.until(f"scan {wanted} of {line}", reached)

    async def source(self, line: str, wanted: str) -> float:
        """Wait until the plant's set-point comes from `wanted`; seconds."""

        async def reached() -> bool:
            return bool(self.log(line).scans[-1]["source"] == wanted)

        return await self.story.until(f"the source {wanted} on {line}", reached)

    # What people do

    async def operate(self, line: str, **values: bool | float) -> None:
        """What an operator, or a machine's protection, writes in the control room."""
        written = [tags.flag(value) if isinstance(value, bool) else tags.number(value) for value in values.values()]
        try:
            async with Client(self.opc, timeout=4) as client:
                await client.write_values([client.get_node(tags.node(line, tag)) for tag in values], written)
        except ua.UaError as error:
            raise StageError(f"the plant does not take {values}: {error}") from error

    async def tag(self) -> None:
        """Tell the hub which device is which line's, for the rings of rollouts."""
        await self.cloud.service.change_registry(
            [{"id": name, "importMode": "updateTwin", "tags": {"line": name}} for name in self.surface]
        )

    async def roll(self, version: int) -> RolloutStatus | None:
        """A rollout, ring by ring, a line each; None if it went through all, else how it stopped."""
        rings = [word for name in self.surface for word in ("--ring", f"{name}:tags.line = '{name}'")]
        await self.cloud.modelsync(
            *("rollout", "start", self.cloud.store, MODEL, "--version", str(version), *rings),
            *("--active", "100%", "--failures", "2%", "--soak", "0s", "--yes", "--by", "ada"),
            "--no-push",  # the bill is of the line to the origin; pushed bytes would come by the hub
        )
        text = await said(
            *("modelsync", "rollout", "run", "--store", self.cloud.store, "--poll", "0.3", "--until-over"),
            environment=self.story.environment,
        )
        for line in text.splitlines():
            self.story.console.print(f"  [dim]rollout:[/] {line}", highlight=False, soft_wrap=True)
        overview = await reading.overview(self.cloud.service)
        return await reading.status(self.cloud.service, MODEL) if overview.rollouts else None

    async def publish(self, artifact: Path, probe: Path | None = None) -> Json:
        """Publish a version, with the recorded answers that it has to give, if there are any."""
        return await self.cloud.publish(MODEL, artifact, *(() if probe is None else ("--probe", str(probe))))


__all__ = ["HERE", "LIMITS", "SHADOW", "SURFACE", "UNDERGROUND", "Mine"]
