"""`make fleet`: a fleet of 30 on one machine, a rollout in three rings, a bad release in ring two, a verdict.

Hub, origin, the operator's page and the daemons are processes of their own; the other devices are real clients of the
SDK in this one. Everything that an operator does is done by the command line. KEEP=1: it stays until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from examples.demo.report import promises_table
from examples.demo.stage import Process, StageError, free_address, said
from examples.fleet.devices import Client, Cloud, Daemon, turns
from examples.fleet.operating import ROOT, Fleet, reported
from examples.fleet.rings import Part, fleet
from examples.fleet.verdict import verdict
from modelsync_server.hub.certificates import ensure
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.service_client import ServiceClient

WHOLE_SECONDS = 225.0


async def story(demo: Fleet, stack: AsyncExitStack) -> None:
    """Everything, act by act."""
    await _cloud(demo, stack)
    await _devices(demo, stack)

    demo.console.rule("Version 1, to everybody: a rollout in one ring")
    await demo.publish("v1")
    through = await demo.roll("everybody:*") is None
    await asyncio.gather(*(daemon.infer() for part, daemon in _daemons(demo) if part.infers))
    demo.promise(
        "a version reaches a fleet", through, f"{len(demo.daemons) + len(demo.clients)} devices serve version 1"
    )

    demo.console.rule("Version 2, to a half of the fleet")
    await demo.publish("v2")
    through = await demo.roll("half:50%") is None
    held = [reported(each).get("version") for each in (await demo.twins()).values()]
    demo.say(f"now {held.count(1)} devices hold version 1 and {held.count(2)} version 2")

    demo.console.rule("Version 3, in three rings: well-formed, signed, and bad")
    published = await demo.publish("v3", "--hub")
    updates = ", ".join(f"{each['bytes']:,} bytes from version {each['from']}" for each in published["updates"])
    demo.say(f"`modelsync publish --hub` made updates from what the fleet holds: {updates}")
    inferring = sum(part.daemons for part in demo.parts if part.infers)
    demo.say(
        "its answers are wrong, and its probe says so wherever it is to serve. That is nowhere in ring canary, whose "
        f"devices only hold it, and on {inferring} in ring north"
    )
    demo.before = await demo.twins()
    status = await demo.roll(*(f"{part.name}:{part.where}" for part in demo.parts))
    if status is None:
        raise StageError("the bad release went through all rings")
    await verdict(demo, status)


async def _cloud(demo: Fleet, stack: AsyncExitStack) -> None:
    demo.console.rule("The cloud: a hub, an origin, the operator's page")
    logs = demo.work / "logs"
    logs.mkdir(parents=True)

    def process(name: str) -> Process:
        made = Process(name, logs, demo.environment)
        stack.push_async_callback(made.stop)
        return made

    host = free_address(8883)
    hub = await process("hub").start(
        *("modelsync", "hub", "--state", str(demo.work / "hub"), "--host", host),
        *("--service-port", "0", "--evaluate-every", "1", "--json"),
    )
    demo.environment["MODELSYNC_SERVICE"] = hub["service"]
    demo.service = await stack.enter_async_context(ServiceClient(parse_service(hub["service"])))
    trust = (await demo.modelsync("init", demo.store, "--keys", demo.environment["MODELSYNC_KEYS"]))["trust"]
    (demo.work / "tls").mkdir()
    tls = ensure(demo.work / "tls", "127.0.0.1")
    origin = await process("origin").start(
        "modelsync", "serve", demo.store, "--tls-cert", str(tls.server), "--tls-key", str(tls.server_key)
    )
    demo.cloud = Cloud(origin["url"], tls.ca, Path(trust), Path(hub["ca"]))
    page = process("page")
    await page.start(
        *("modelsync", "dashboard", "--store", demo.store, "--listen", "127.0.0.1:0"),
        *("--operator", "ada", "--fresh", "2", "--audit", str(demo.work / "audit.jsonl")),
        ready=False,
    )
    said_lines = await _lines(page.log, 2)
    demo.page = said_lines[0].removeprefix("The page: ")
    demo.say(f"hub {host}:8883, origin {demo.cloud.origin}")
    demo.console.print(f"  [bold green]The operator's page: {demo.page}[/]", soft_wrap=True)
    demo.console.print(f"  {escape(said_lines[1])}", soft_wrap=True)


async def _lines(log: Path, count: int) -> list[str]:
    """The first lines of a log, when they are there."""
    for _ in range(300):
        lines = [line for line in log.read_text().splitlines() if "http://" in line]
        if len(lines) >= count:
            return lines
        await asyncio.sleep(0.1)
    raise StageError(f"the page did not start; see {log}")


async def _devices(demo: Fleet, stack: AsyncExitStack) -> None:
    count = sum(part.devices for part in demo.parts)
    demo.console.rule(f"The fleet: {count} devices")
    state = str(demo.work / "hub")
    text = await said(
        *("modelsync", "hub", "device", "add", "--count", str(count), "--prefix", "car-", "--state", state),
    )
    strings = text.split()
    logs, slots = demo.work / "logs", turns()

    def process(name: str) -> Process:
        made = Process(name, logs, demo.environment)
        stack.push_async_callback(made.stop)
        return made

    numbers = iter(range(1, count + 1))
    tags, starts = [], []
    for part in demo.parts:
        for place in range(part.devices):
            number = next(numbers)
            device, folder = f"car-{number:04}", demo.work / "devices" / f"car-{number:04}"
            part.ids.append(device)
            tags.append({"id": device, "importMode": "updateTwin", "tags": {"ring": part.name}})
            if place < part.daemons:
                demo.daemons[device] = Daemon(device, folder, process)
                starts.append(demo.daemons[device].start(strings[number - 1], demo.cloud))
            else:
                demo.clients[device] = Client(device, folder, stack)
                starts.append(demo.clients[device].start(strings[number - 1], demo.cloud, slots))
    if refused := await demo.service.change_registry(tags):
        raise StageError(f"the hub takes no tags: {refused}")
    await asyncio.gather(*starts)

    async def connected() -> bool:
        found, _ = await demo.service.query_page(
            "SELECT COUNT() AS devices FROM devices WHERE connectionState = 'Connected'"
        )
        return bool(found) and found[0]["devices"] == count

    await demo.until("the connection of every device", connected)
    inferring = sum(part.daemons for part in demo.parts if part.infers)
    demo.say(
        f"{len(demo.daemons)} are daemons, {inferring} of them with modelsync-infer; "
        f"{len(demo.clients)} are clients of azure-iot-device that fetch and report as daemons do"
    )


def _daemons(demo: Fleet) -> list[tuple[Part, Daemon]]:
    return [(part, demo.daemons[device]) for part in demo.parts for device in part.ids if device in demo.daemons]


async def main(arguments: argparse.Namespace) -> int:
    """Run the story, write the report, and return the exit code."""
    console = Console()
    work, report = arguments.out / "fleet-run", arguments.out / "fleet-report.json"
    shutil.rmtree(work, ignore_errors=True)
    report.unlink(missing_ok=True)
    work.mkdir(parents=True)
    demo = Fleet(console, fleet(arguments.small), work)
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(WHOLE_SECONDS):
                await story(demo, stack)
        except (StageError, TimeoutError) as error:
            demo.promise("the demo runs to its end", False, str(error) or f"it took more than {WHOLE_SECONDS:.0f} s")
        console.rule(f"Result after {time.monotonic() - began:.0f} s")
        console.print(promises_table(demo.promises))
        demo.report.promises = demo.promises
        demo.report.write(report)
        console.print(f"The report is in {report.name}; the processes' logs are in {work.name}/logs.")
        if arguments.keep:
            console.print(f"It stays until Ctrl-C: {demo.page}", soft_wrap=True)
            await _interrupted()
    return 0 if demo.report.ok else 1


async def _interrupted() -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.fleet")
    parser.add_argument("--keep", action="store_true", help="stay at the end, until Ctrl-C")
    parser.add_argument("--small", action="store_true", help="nine devices")
    parser.add_argument("--out", type=Path, default=ROOT, help="where fleet-run/ and fleet-report.json go")
    sys.exit(asyncio.run(main(parser.parse_args())))
