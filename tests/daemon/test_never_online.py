"""A device that was never online serves what a stick brought, and is told by hand; once online it fetches nothing more.

Real processes throughout: publisher, daemon, inference server, the commands that a person gives; a hub in this process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from modelsync_server.hub.hub import Hub, HubAddress
from tests.support import tiny_models
from tests.support.addresses import loopback_address
from tests.support.infer_process import InferProcess
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop
from tests.support.waiting import PATIENCE_SECONDS, until

NAME = "anomaly"


class Site:
    """A hub, a store with its origin, a device, and a stick at `root`/stick."""

    def __init__(self, root: Path, hub: Hub, shop: Shop, origin: ScriptedOrigin) -> None:
        self.root, self.hub, self.shop, self.origin = root, hub, shop, origin
        self.data, self.stick = root / "data", root / "stick"
        self.daemon: asyncio.subprocess.Process | None = None
        self.config = root / "modelsyncd.toml"
        self.config.write_text(
            f'data = "data"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\nprobation_seconds = 0\n'
            f'startup_spread_seconds = 0\nconnection_string = "{hub.add_device("pi")}"\n'
        )

    async def command(self, name: str, *arguments: object, code: int = 0) -> str:
        """Give a command as a person would; what it prints."""
        child = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name(name),
            *map(str, arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(child.communicate(), 60)
        assert child.returncode == code, (name, arguments, err.decode(), out.decode())
        return (out + err).decode()

    async def export(self, *options: object) -> None:
        """Write the stick."""
        await self.command("modelsync", "export", self.shop.path, self.stick, *options)

    async def bring(self, code: int = 0) -> dict[str, Any]:
        """Import the stick; what became of the model."""
        said = await self.command("modelsyncd", "import", self.stick, "--data", self.data, "--json", code=code)
        model: dict[str, Any] = json.loads(said)["models"][NAME]
        return model

    async def run(self, *, online: bool) -> None:
        """Start the daemon; without a line it has a hub in its settings, and none answers."""
        config = self.config
        if not online:
            config = self.root / "offline.toml"
            config.write_text(self.config.read_text().replace("GatewayHostName=127.0.", "GatewayHostName=127.200."))
        self.daemon = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("modelsyncd"), "run", "--config", str(config)
        )
        await self.until(lambda: (self.data / "daemon.sock").exists())

    async def stop(self) -> None:
        """End the daemon in order."""
        assert self.daemon is not None
        self.daemon.terminate()
        await asyncio.wait_for(self.daemon.wait(), PATIENCE_SECONDS)
        self.daemon = None

    def wish(self, version: int) -> None:
        """Set the twin."""
        section = {"origin": self.origin.url, "models": {NAME: {"version": version}}}
        self.hub.set_desired("pi", {"modelsync": section})

    def reported(self) -> dict[str, Any]:
        """What the hub shows of the model."""
        model: dict[str, Any] = self.hub.reported("pi").get("modelsync", {}).get("models", {}).get(NAME, {})
        return model

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition()`."""

        def holds() -> object:
            assert self.daemon is None or self.daemon.returncode is None, "the daemon ended"
            return condition()

        await until(holds)


@pytest.fixture
async def site(tmp_path: Path, worker_id: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        address = HubAddress(loopback_address(worker_id), service_port=0)
        hub = await stack.enter_async_context(Hub(tmp_path / "hub", address))
        shop = await Shop.open(tmp_path)
        origin = await stack.enter_async_context(ScriptedOrigin(shop.path))
        await shop.publish_bytes(NAME, tiny_models.scaler(1), "model.onnx")
        made = Site(tmp_path, hub, shop, origin)
        yield made
        if made.daemon is not None:
            made.daemon.kill()
            await made.daemon.wait()


def answered(url: str) -> int:
    """What the served model says which version it is; 0 while none is ready."""
    body = {"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]}
    request = urllib.request.Request(f"{url}/v2/models/{NAME}/infer", json.dumps(body).encode())
    try:
        outputs = json.loads(urllib.request.urlopen(request, timeout=30).read())["outputs"]
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return 0
    found: int = next(output["data"][0] for output in outputs if output["name"] == "tag")
    return found


@pytest.mark.long
async def test_from_nothing_to_a_served_model_and_online_for_zero_further_bytes(site: Site) -> None:
    await site.export()
    await site.run(online=False)
    first = await site.bring()
    assert (first["result"], first["version"], first["state"]) == ("brought", 1, "active")
    status = json.loads(await site.command("modelsyncd", "status", "--data", site.data, "--json"))
    assert status["models"][NAME]["bytes"] == 0 and status["ledger"]["day"] == {"received": 0, "sent": 0}
    server = await asyncio.to_thread(InferProcess, site.data, model=NAME)
    try:
        await site.until(lambda: answered(server.url) == 1)

        # The small stick of the next month: what is new, for who has the first. The running server swaps.
        first_stick, site.stick = site.stick, site.root / "second"
        await site.shop.publish_bytes(NAME, tiny_models.scaler(2), "model.onnx")
        await site.export("--since", first_stick)
        size = sum(path.stat().st_size for path in site.stick.rglob("*") if path.is_file())
        assert not (site.stick / "packs").exists() and size < sum(
            path.stat().st_size for path in first_stick.rglob("*") if path.is_file()
        )
        second = await site.bring()
        assert (second["result"], second["version"]) == ("brought", 2)
        await site.until(lambda: answered(server.url) == 2)
        assert (await site.bring())["result"] == "here"
    finally:
        await asyncio.to_thread(server.stop)

    # By hand to the hub: what it would have reported.
    out = site.root / "pi.report"
    await site.command("modelsyncd", "export-report", out, "--config", site.root / "offline.toml")
    assert site.reported() == {}
    state = ("--state", site.root / "hub")
    assert "is set" in await site.command("modelsync", "import-report", out, *state)
    assert (site.reported()["version"], site.reported()["state"]) == (2, "active")
    assert "set here already" in await site.command("modelsync", "import-report", out, *state, code=3)

    # The line comes, and the hub wishes for what is there: nothing of the model is fetched, and the device reports it.
    await site.stop()
    site.wish(2)
    await site.run(online=True)
    await site.until(lambda: site.reported().get("desired") == 2 and site.reported()["state"] == "active")
    assert site.origin.object_bytes() == 0 and site.origin.exchanges == []

    # What comes over the line now builds on what the stick brought.
    published = await site.shop.publish_bytes(NAME, tiny_models.scaler(3), "model.onnx")
    site.wish(3)
    await site.until(lambda: (site.reported().get("version"), site.reported().get("state")) == (3, "active"))
    assert site.origin.object_bytes() == next(u.bytes for u in published.updates if u.base == 2)
    # And a report from before is not believed any more.
    late = site.root / "late.report"
    late.write_bytes(out.read_bytes())
    await site.command("modelsync", "import-report", late, *state, code=3)
    assert site.reported()["version"] == 3


@pytest.mark.long
async def test_where_the_hub_can_be_asked_its_wish_counts_and_the_stick_spares_the_line(site: Site) -> None:
    site.wish(1)
    site.origin.fault = lambda exchange, answer, whole: answer_nothing(answer)
    await site.run(online=True)
    await site.until(lambda: site.reported().get("error"))
    await site.shop.publish_bytes(NAME, tiny_models.scaler(2), "model.onnx")
    await site.export("--models", f"{NAME}:2")
    left = await site.bring()
    assert left["result"] == "left" and "asks for version 1" in left["text"]
    site.stick = site.root / "both"
    await site.export("--versions", "2")
    before = len(site.origin.exchanges)
    brought = await site.bring()
    assert (brought["result"], brought["version"], brought["state"]) == ("brought", 1, "active")
    await site.until(lambda: (site.reported().get("version"), site.reported().get("state")) == (1, "active"))
    assert len(site.origin.exchanges) == before


def answer_nothing(answer: Any) -> Any:
    """The origin is out of order."""
    answer.status, answer.body = 403, b""
    return answer
