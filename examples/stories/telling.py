"""A story while it runs: its processes, its patience, its report; and the command line that all stories have."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from examples.demo.stage import READY_SECONDS, Process, StageError
from examples.demo.telling import Telling
from examples.stories.report import Charge, StoryReport
from examples.stories.supervisor import Module

ROOT = Path(__file__).resolve().parents[2]
WHOLE_SECONDS = 225.0
"""A story ends in under four minutes."""
WAIT_SECONDS = 60.0


class Story(Telling):
    """`work`: the run's folder; `short`: the abridged one; `environment`: what every process has beside this one's;
    `patience`: so many times the usual time may all of it take, and each wait in it."""

    def __init__(self, name: str, out: Path, console: Console, *, short: bool, patience: float = 1.0) -> None:
        super().__init__(console)
        self.name, self.short, self.patience = name, short, patience
        self.out = out
        self.work = out / f"story-{name}-run"
        self.logs = self.work / "logs"
        self.environment: dict[str, str] = {}
        self.report = StoryReport(name)
        self.stack = AsyncExitStack()
        self.began = time.monotonic()
        self._running: list[Process | Module] = []
        self.stack.push_async_callback(self._stop)

    def process(self, name: str) -> Process:
        """A process (not started) that ends with the story; its log is logs/NAME.log."""
        made = self._process(name)
        self._running.append(made)
        return made

    async def module(self, name: str, command: str, *arguments: str, ready: bool = False) -> Module:
        """Start a process that is started again whenever it ends, until the story does."""
        made = Module(self._process(name), command, *arguments, ready=ready)
        self._running.append(made)
        await made.start()
        return made

    def _process(self, name: str) -> Process:
        return Process(name, self.logs, self.environment, ready_seconds=READY_SECONDS * self.patience)

    async def _stop(self) -> None:
        await asyncio.gather(*(each.stop() for each in self._running))

    async def until(self, what: str, test: Callable[[], Awaitable[bool]], seconds: float = WAIT_SECONDS) -> float:
        """Wait until `test` holds, and return how many seconds that took; StageError after `seconds` × patience."""
        began, seconds = time.monotonic(), seconds * self.patience
        while not await test():
            if time.monotonic() > began + seconds:
                raise StageError(f"{what} did not come about within {seconds:.0f} s; see {self.work.name}/logs")
            await asyncio.sleep(0.1)
        return time.monotonic() - began

    def act(self, title: str) -> None:
        """A new part of the story begins."""
        self.console.rule(f"{title} [dim]({time.monotonic() - self.began:.0f} s)[/]")

    def charge(self, way: str, what: str, count: int, measured: str) -> None:
        """A line of the bill."""
        self.report.bill.append(Charge(way, what, count, measured))

    def not_tried(self, sentence: str) -> None:
        """What this machine does not permit; it is said, and stands in the report."""
        self.report.not_tried.append(sentence)
        self.console.print(f"  [yellow]not tried:[/] {sentence}")


async def together(*works: Awaitable[object]) -> None:
    """Wait for all; the first that fails ends the others."""

    async def one(work: Awaitable[object]) -> None:
        await work

    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(one(work))
    except* StageError as failed:
        raise StageError(str(failed.exceptions[0])) from failed


def tell(name: str, summary: str, story: Callable[[Story], Awaitable[None]]) -> int:
    """The command line of a story: run it, write story-NAME.json and .txt, return the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=summary)
    parser.add_argument("--short", action="store_true", help="the abridged story, for `make test`")
    parser.add_argument("--keep", action="store_true", help="stay at the end, until Ctrl-C")
    parser.add_argument(
        "--patience", type=_factor, default=1.0, metavar="N", help="on a slow or busy machine: N times the usual time"
    )
    parser.add_argument("--out", type=Path, default=ROOT, help="where the run's folder and the report go")
    arguments = parser.parse_args()
    return asyncio.run(_tell(name, story, arguments))


def _factor(text: str) -> float:
    factor = float(text)
    if not 1 <= factor <= 100:
        raise argparse.ArgumentTypeError("give a number from 1 to 100")
    return factor


async def _tell(name: str, story: Callable[[Story], Awaitable[None]], arguments: argparse.Namespace) -> int:
    told = Story(name, arguments.out.resolve(), Console(), short=arguments.short, patience=arguments.patience)
    seconds = WHOLE_SECONDS * told.patience
    shutil.rmtree(told.work, ignore_errors=True)
    told.logs.mkdir(parents=True)
    for sort in ("json", "txt"):
        (told.out / f"story-{name}.{sort}").unlink(missing_ok=True)
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    async with told.stack:
        try:
            async with asyncio.timeout(seconds):
                await story(told)
        except (StageError, TimeoutError) as error:
            late = f"it took more than {seconds:.0f} s; on a slow or busy machine --patience gives it more"
            told.promise("the story runs to its end", False, str(error) or late)
        report = told.report
        report.promises, report.seconds = told.promises, time.monotonic() - told.began
        told.act("Result")
        report.show(told.console)
        report.write(told.out)
        told.console.print(
            f"The report is in story-{name}.json and .txt, the processes' logs in {told.work.name}/logs."
        )
        if arguments.keep:
            told.console.print("It stays until Ctrl-C.")
            await asyncio.Event().wait()
    return 0 if report.ok else 1
