"""The device of the story: a daemon, two scoring services, and a client that asks both all the time. No acts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from examples.demo.stage import StageError
from examples.environment.ports import free_port
from examples.stories.cloud import Cloud, Json
from examples.stories.supervisor import Module
from examples.stories.telling import Story

DEVICE = "edge-1"
ENVIRONMENT, MODEL, UNIT = "environment", "model", "unit"
INTERPRETER = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered: when, by which versions, and the numbers; `ok` False if there was no answer."""

    at: float
    ok: bool
    environment: int = 0
    model: int = 0
    values: tuple[float, ...] = ()


@dataclass(slots=True)
class Edge:
    """One device. `answers`: everything that each service answered, in order."""

    story: Story
    cloud: Cloud
    rows: Sequence[Sequence[float]]
    answers: dict[str, list[Answer]] = field(default_factory=lambda: {MODEL: [], UNIT: []})
    modules: dict[str, Module] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The device's own folder."""
        return self.story.work / DEVICE

    @property
    def data(self) -> Path:
        """The daemon's data directory, on a disk of its own where that is possible."""
        return self.folder / "disk" / "data"

    async def start(self) -> None:
        """Start the daemon, with how each service is told of versions."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        connection = self.cloud.add_device(DEVICE)
        text = self.cloud.daemon_settings(self.data, connection)
        text += f'[capabilities]\nhas = ["python={sys.version_info.major}.{sys.version_info.minor}.0"]\n'
        for name, service in ((ENVIRONMENT, MODEL), (UNIT, UNIT)):
            self.ports[service] = free_port()
            text += self._told(name, service)
        config = self.folder / "modelsyncd.toml"
        config.write_text(text)
        self.modules["daemon"] = await self.story.module(
            "daemon", "modelsyncd", "run", "--config", str(config), "--verbose"
        )

    def _told(self, name: str, service: str) -> str:
        """The activation of an environment: looked through before the switch, the service started anew after it."""
        end = f"kill -KILL $(cat {shlex.quote(str(self._pidfile(service)))}) || true"
        # Both run confined: of files that are no system's they read the version, and what is named here.
        interpreter = json.dumps(str(Path(INTERPRETER).parents[1]))
        return (
            f"[models.{name}.activate]\ncommand = {json.dumps(['/bin/sh', '-c', end])}\nseconds = 30\n"
            f"read = [{json.dumps(str(self.folder))}]\n"
            f'[models.{name}.activate.check]\ncommand = ["/usr/bin/env", "{{path}}/bin/check-environment"]\n'
            f"seconds = 60\nread = [{interpreter}]\nenvironment = {{MODELSYNC_PYTHON = {json.dumps(INTERPRETER)}}}\n"
            f"[models.{name}.activate.ready]\nseconds = 60\nevery = 0.5\n"
            f'http = {{url = "http://127.0.0.1:{self.ports[service]}/", expect = {{environment = "{{version}}"}}}}\n'
        )

    def _pidfile(self, service: str) -> Path:
        return self.folder / f"{service}.pid"

    def current(self, name: str) -> Path:
        """The link that always names what serves."""
        return self.data / "models" / name / "current"

    async def serve(self, service: str) -> None:
        """Start a scoring service from `current` as soon as that is there, and ask it from then on."""
        program = self.current(ENVIRONMENT if service == MODEL else UNIT) / "bin" / "line-score"

        async def there() -> bool:
            found = await self.cloud.reported(DEVICE, ENVIRONMENT if service == MODEL else UNIT)
            if "error" in found and not program.exists():
                raise StageError(f"the device does not take the environment: {found['error'].get('text')}")
            return program.exists()

        await self.story.until(f"the first version for {service}", there)
        more = ("--data", str(self.data), "--model", MODEL) if service == MODEL else ()
        options = ("--port", str(self.ports[service]), "--pidfile", str(self._pidfile(service)), *more)
        self.modules[service] = await self.story.module(service, str(program), *options)
        client = asyncio.create_task(self._ask(service))
        self.story.stack.callback(client.cancel)

    async def _ask(self, service: str) -> None:
        url = f"http://127.0.0.1:{self.ports[service]}/"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                answer = Answer(time.monotonic() - self.story.began, False)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                    async with session.post(url, json=self.rows) as response:
                        said = await response.json()
                        values = tuple(said["answers"])
                        answer = Answer(answer.at, bool(values), said["environment"], said["model"], values)
                self.answers[service].append(answer)
                await asyncio.sleep(_EVERY)

    async def answered(self, service: str, environment: int, model: int) -> None:
        """Wait until a service answers by these versions."""

        async def reached() -> bool:
            last = self.answers[service][-1] if self.answers[service] else Answer(0, False)
            return last.ok and (last.environment, last.model) == (environment, model)

        await self.story.until(f"answers of {service} by environment {environment}, model {model}", reached)

    async def state(self, name: str, desired: int, *states: str) -> Json:
        """Wait until the device reports of the version that is desired one of these states; what it reports then."""
        found: Json = {}

        async def reached() -> bool:
            nonlocal found
            found = await self.cloud.reported(DEVICE, name)
            return found.get("desired") == desired and found.get("state") in states

        await self.story.until(f"{name} {' or '.join(states)}", reached)
        return found
