"""`make demo`: modelsync's whole job on one machine, with real parts in separate processes, and a verdict at the end.

A hub (MODELSYNC_DEMO_CONTROL=mqtt: a Mosquitto) and an origin stand for the cloud; a daemon and two inference servers
stand for the device. The line between origin and device goes through a relay that can be slowed, cut and counted.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.demo.control_place import control_place
from examples.demo.load import LoadReport, LoadStream
from examples.demo.relay import Counts, Relay
from examples.demo.report import DemoReport, Update
from examples.demo.stage import Process, StageError, run
from examples.demo.store_place import place
from examples.demo.telling import Telling
from modelsync_server.hub.certificates import ensure
from modelsync_server.iothub.port import HubService

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
WORK = ROOT / "demo-run"
REPORT = ROOT / "demo-report.json"
DEVICE = "pi"
SLOW_LINE = 150_000
"""Bytes a second while the line is slow, so that a download has a middle."""

MAX_REFETCHED = 512 * 1024
WAIT_SECONDS = 60.0

Json = dict[str, Any]


class Demo(Telling):
    """The story's state: what runs, what was measured, which promises were seen to hold."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.updates: list[Update] = []
        self.refetched = 0
        self.store = str(WORK / "store")
        self.keys = {"MODELSYNC_KEYS": str(WORK / "keys")}
        self.data = WORK / "device"
        self.relay: Relay
        self.service: HubService
        self.daemon: Process
        self.streams: dict[str, LoadStream] = {}

    async def publish(self, name: str, folder: str) -> Json:
        """Publish the example model in `folder` with its probe."""
        artifact, probe = EXAMPLES / folder / "model.onnx", EXAMPLES / folder / "probe.json"
        result = await run(
            "modelsync", "publish", self.store, name, str(artifact), "--probe", str(probe), "--json",
            environment=self.keys,
        )  # fmt: skip
        assert isinstance(result, dict)
        return result

    async def desire(self, **versions: int) -> None:
        """Set desired versions in the device's twin, as an operator would."""
        models = {name: {"version": version} for name, version in versions.items()}
        await self.service.set_desired(DEVICE, {"modelsync": {"origin": self.origin_url, "models": models}})

    @property
    def origin_url(self) -> str:
        """Where the device finds the origin: behind the relay."""
        return f"https://127.0.0.1:{self.relay.port}"

    async def reported(self, name: str) -> Json:
        """What the cloud knows of a model on the device."""
        twin = await self.service.twin(DEVICE)
        found = twin["properties"]["reported"].get("modelsync", {}).get("models", {}).get(name, {})
        assert isinstance(found, dict)
        return found

    async def until(self, what: str, test: Callable[[Json], bool], name: str) -> Json:
        """Wait until what the device reports of `name` passes `test`."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not test(found := await self.reported(name)):
            if time.monotonic() > deadline:
                raise StageError(f"{what} did not come about within {WAIT_SECONDS:.0f} s: the device reports {found}")
            await asyncio.sleep(0.1)
        return found

    async def serving(self, name: str, version: int) -> Json:
        """Wait until `version` is active and the stream's answers come from it."""
        found = await self.until(
            f"{name} version {version}", lambda r: r.get("version") == version and r.get("state") == "active", name
        )
        if name in self.streams:
            await self.answering(name, version)
        return found

    async def answering(self, name: str, version: int) -> None:
        """Wait until the stream's newest answer comes from `version`."""
        for _ in range(int(WAIT_SECONDS / 0.02)):
            if self.streams[name].version == str(version):
                return
            await asyncio.sleep(0.02)
        raise StageError(f"{name} version {version} is active but does not answer")

    def note(self, name: str, before: int | None, published: Json, begin: Counts, body: int) -> None:
        """Add a row to the report; the relay's counts since `begin` are the wire."""
        spent = self.relay.counts() - begin
        self.updates.append(
            Update(name, before, published["version"], body, spent.up + spent.down, published["install_bytes"])
        )


async def story(demo: Demo, stack: AsyncExitStack) -> None:
    """The whole job, act by act."""
    console = demo.console
    logs = WORK / "logs"
    logs.mkdir(parents=True)

    def process(name: str) -> Process:
        made = Process(name, logs, demo.keys)
        stack.push_async_callback(made.stop)
        return made

    console.rule("The cloud: a hub and an origin; the device: a daemon and two inference servers")
    control = await control_place(WORK, DEVICE, stack, process)
    demo.service = control.service
    demo.store, reaching = place(WORK, stack.enter_context(ExitStack()))
    demo.keys |= reaching
    init = ("modelsync", "init", demo.store, "--keys", demo.keys["MODELSYNC_KEYS"], "--json")
    trust = (await run(*init, environment=demo.keys))["trust"]
    (WORK / "tls").mkdir()
    tls = ensure(WORK / "tls", "127.0.0.1")
    origin = await process("origin").start(
        "modelsync", "serve", demo.store, "--tls-cert", str(tls.server), "--tls-key", str(tls.server_key)
    )
    demo.relay = await stack.enter_async_context(Relay("127.0.0.1", int(origin["url"].rpartition(":")[2])))
    config = WORK / "modelsyncd.toml"
    config.write_text(
        f'data = "{demo.data}"\ntrust = "{trust}"\norigin_ca = "{tls.ca}"\n{control.settings}probation_seconds = 2\n'
    )
    demo.daemon = process("daemon")
    await demo.daemon.start("modelsyncd", "run", "--config", str(config), "--verbose", ready=False)
    demo.say(f"store {demo.store}, {control.said}, origin {origin['url']}, daemon pid {demo.daemon.pid}: all over TLS")

    console.rule("First versions")
    for name, folder in (("digits", "digits/float32/v1"), ("anomaly", "anomaly/v1")):
        published = await demo.publish(name, folder)
        begin = demo.relay.counts()
        await demo.desire(**{name: 1})
        await demo.serving(name, 1)
        demo.note(name, None, published, begin, published["install_bytes"])
    demo.say("the twin asked for digits v1 and anomaly v1; the daemon fetched, proved and activated them")

    for name, request in requests().items():
        server = await process(f"infer-{name}").start("modelsync-infer", "--data", str(demo.data), "--model", name)
        stream = LoadStream(server["url"], name, request, rate=40)
        await until_ready(server["url"])
        await stream.start()
        stack.push_async_callback(stream.stop)
        demo.streams[name] = stream
        await demo.serving(name, 1)
    demo.say("inference servers answer 80 requests a second, from now on to the end")

    console.rule("A retrained anomaly detector: a few kilobytes")
    published = await demo.publish("anomaly", "anomaly/v2")
    begin = demo.relay.counts()
    await demo.desire(anomaly=2)
    await demo.serving("anomaly", 2)
    price = published["updates"][0]["bytes"]
    demo.note("anomaly", 1, published, begin, price)
    demo.promise("a small model's update costs kilobytes", price < 8192, f"{price:,} bytes from v1 to v2")

    console.rule("A fine-tuned network, over a slow line that is cut, into a daemon that is killed")
    published = await demo.publish("digits", "digits/float32/v2")
    price = published["updates"][0]["bytes"]
    begin = demo.relay.counts()
    demo.relay.rate = SLOW_LINE
    demo.relay.cut_after(price * 3 // 10, refuse=True)
    await demo.desire(digits=2)
    await demo.until("the cut", lambda _: (demo.relay.counts() - begin).down >= price * 3 // 10, "digits")
    demo.say(f"the line was cut after {(demo.relay.counts() - begin).down:,} of {price:,} bytes")
    await asyncio.sleep(1)
    demo.relay.restore()
    await demo.until("the middle", lambda _: (demo.relay.counts() - begin).down >= price * 6 // 10, "digits")
    await demo.daemon.kill()
    demo.say(f"kill -9 of the daemon after {(demo.relay.counts() - begin).down:,} bytes; starting it again")
    await demo.daemon.start("modelsyncd", "run", "--config", str(config), "--verbose", ready=False)
    await demo.serving("digits", 2)
    demo.relay.rate = None
    demo.note("digits", 1, published, begin, price)
    # Handshakes, headers and trust metadata count as fetched twice here: an upper bound.
    demo.refetched = max(0, (demo.relay.counts() - begin).down - price)
    demo.promise(
        "a cut and a kill cost at most one payload each",
        demo.refetched <= MAX_REFETCHED,
        f"{demo.refetched:,} bytes beyond the {price:,} of the update, handshakes and metadata included",
    )

    console.rule("A broken version: well-formed and signed, but its probe fails")
    await demo.publish("digits", "digits/float32/v3")
    await demo.desire(digits=3)
    refused = await demo.until("the refusal", lambda r: r.get("state") == "quarantined", "digits")
    reason = (refused.get("error") or {}).get("text", "")
    demo.promise(
        "a model whose probe fails is refused, the old one serves",
        refused.get("version") == 2 and demo.streams["digits"].version == "2",
        reason,
    )

    console.rule("Back to version 1")
    await demo.desire(digits=2)
    await demo.serving("digits", 2)
    begin = demo.relay.counts()
    back = await run("modelsyncd", "rollback", "digits", "--data", str(demo.data), "--json")
    await demo.answering("digits", 1)
    spent = demo.relay.counts() - begin
    demo.promise(
        "a roll-back costs no bytes",
        back["version"] == 1 and demo.streams["digits"].version == "1" and spent.up + spent.down == 0,
        f"version {demo.streams['digits'].version} serves after {spent.up + spent.down} bytes",
    )


def requests() -> dict[str, Callable[[int], Json]]:
    """For each model a maker of request bodies, from its own test data."""
    from examples.anomaly import readings
    from examples.anomaly.train import test_windows
    from examples.digits.train import data
    from examples.probes import tensor

    images = data()[1].images
    windows = readings.features(test_windows().readings)

    def body(name: str, array: Any) -> Json:
        return {"inputs": [{"name": name, **tensor(array)}]}

    return {
        "digits": lambda n: body("image", images[n % len(images)][None]),
        "anomaly": lambda n: body("X", windows[n % len(windows)][None]),
    }


async def until_ready(url: str) -> None:
    """Wait until the server at `url` has a model to answer with."""
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            async with session.get(f"{url}/v2/health/ready") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)
    raise StageError(f"the inference server at {url} did not become ready")


async def main() -> int:
    """Run the story, write the report, and return the exit code."""
    console = Console()
    shutil.rmtree(WORK, ignore_errors=True)
    REPORT.unlink(missing_ok=True)
    WORK.mkdir()
    demo = Demo(console)
    began = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            await story(demo, stack)
            for stream in demo.streams.values():
                await stream.stop()
    except StageError as error:
        demo.promise("the demo runs to its end", False, str(error))
    load = {name: stream.report() for name, stream in demo.streams.items()}
    judge(demo, load)
    report = DemoReport(
        requests=sum(one.requests for one in load.values()),
        failed=sum(one.failed for one in load.values()),
        swaps=sum(one.swaps for one in load.values()),
        updates=demo.updates,
        refetched_bytes=demo.refetched,
        promises=demo.promises,
    )
    console.rule(f"Result after {time.monotonic() - began:.0f} s")
    report.show(console)
    report.write(REPORT)
    console.print(f"The report is in {REPORT.name}; the processes' logs are in {WORK.name}/logs.")
    return report.exit_code


def judge(demo: Demo, load: dict[str, LoadReport]) -> None:
    """What the streams of requests saw, over everything that happened."""
    for name, report in load.items():
        latency = report.latency_ms
        demo.promise(
            f"no request to {name} fails, through every swap",
            report.requests > 0 and report.failed == 0,
            f"{report.requests:,} requests, {report.failed} failed{_reasons(report)}, "
            f"{report.swaps} swaps, "
            f"p50 {latency.get('p50', 0):.1f} ms, p99 {latency.get('p99', 0):.1f} ms",
        )


def _reasons(report: LoadReport) -> str:
    return f" ({', '.join(f'{count}× {reason}' for reason, count in report.failures.items())})" if report.failed else ""


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
