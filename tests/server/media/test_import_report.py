"""Reports that are carried to a hub: set once, in order, and only what that very device has signed; a real hub."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol import carried_report
from modelsync_protocol.carried_report import Report
from modelsync_protocol.errors import FormatError, RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.hub import HUB_NAME, Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ConflictError, ServiceClient
from modelsync_server.media import device_session, import_report
from modelsync_server.media.import_report import TAG, Told
from tests.support.addresses import loopback_address
from tests.support.hub_wire import connect_packet, wire
from tests.support.modelsync_command import runner
from tests.support.waiting import PATIENCE_SECONDS

PI = Identity("pi")
MODULE = Identity("gateway", "modelsync")


class World:
    """A hub with a device, a module, and a client of its service side."""

    def __init__(self, hub: Hub, service: ServiceClient) -> None:
        self.hub, self.service = hub, service

    def key(self, identity: Identity) -> str:
        found = self.hub.state.find(identity)
        assert found is not None
        return found.primary_key

    def write(self, version: int, identity: Identity = PI, **changes: Any) -> bytes:
        """A report of that sequence, saying that so much of a model serves; issued now."""
        key = changes.pop("key", self.key(identity))
        shown = {"modelsync": {"models": {"a": {"version": version, "state": "active"}}, "ledger": {}}}
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + changes.pop("ago", 1)))
        report = Report(HUB_NAME, identity.device, identity.module, version, issued, shown)
        return carried_report.sign(replace(report, **changes), key)

    async def carry(self, data: bytes) -> Told:
        port = self.hub.address.device_port
        return await import_report.import_report(self.service, self.hub.service, data, port)

    def shown(self, identity: Identity = PI) -> dict[str, Any]:
        found: dict[str, Any] = self.hub.reported(identity.device, identity.module).get("modelsync", {})
        return found


@pytest.fixture
async def world(tmp_path: Path, worker_id: str) -> AsyncIterator[World]:
    address = HubAddress(loopback_address(worker_id), device_port=0, service_port=0)
    async with Hub(tmp_path / "hub", address) as hub:
        hub.add_device("pi")
        hub.add_device("other")
        hub.add_device(MODULE.device, MODULE.module)
        async with ServiceClient(hub.service) as service:
            yield World(hub, service)


@pytest.mark.parametrize("identity", [PI, MODULE])
async def test_reports_are_set_in_order_and_each_once(world: World, identity: Identity) -> None:
    first, second, third = (world.write(number, identity) for number in (5, 6, 7))
    told = await world.carry(first)
    assert (told.identity, told.sequence, list(told.models)) == (identity, 5, ["a"])
    assert world.shown(identity)["models"]["a"]["version"] == 5
    await world.carry(third)
    assert world.shown(identity)["models"]["a"]["version"] == 7
    for stale in (first, second, third):
        with pytest.raises(RefusedError, match="set here already"):
            await world.carry(stale)
    assert world.shown(identity)["models"]["a"]["version"] == 7
    document = await world.service.twin(identity.device, identity.module)
    assert document["tags"][TAG]["sequence"] == 7 and document["tags"][TAG]["set"] is True


async def test_what_a_report_lacks_goes(world: World) -> None:
    await world.carry(world.write(5))
    await world.carry(world.write(6, reported={"modelsync": {"models": {"b": {"version": 1}}}}))
    assert world.shown() == {"models": {"b": {"version": 1}}}


async def test_what_others_have_reported_of_this_device_stays(world: World) -> None:
    world.hub.registry.report(PI, {"firmware": {"version": "1.2"}})
    await world.carry(world.write(5, ago=60))
    assert world.hub.reported("pi")["firmware"] == {"version": "1.2"}


async def test_foreign_reports_are_refused(world: World) -> None:
    """Signed by another device of the same fleet, which says that it is this one; of another hub; of nobody."""
    other = world.key(Identity("other"))
    with pytest.raises(RefusedError, match="not signed with that device's key"):
        await world.carry(world.write(5, key=other))
    with pytest.raises(RefusedError, match="for the hub elsewhere"):
        await world.carry(world.write(5, hub="elsewhere"))
    with pytest.raises(UsageError):
        await world.carry(world.write(5, device="stranger"))
    with pytest.raises(RefusedError, match="not signed"):
        await world.carry(world.write(5, key=base64.b64encode(bytes(32)).decode()))
    with pytest.raises(FormatError):
        await world.carry(b"no report")
    assert world.shown() == {}


async def test_a_report_signed_with_the_secondary_key_is_believed_too(world: World) -> None:
    """Keys are changed one after the other."""
    found = world.hub.state.find(PI)
    assert found is not None
    await world.carry(world.write(5, key=found.secondary_key))
    assert world.shown()["models"]["a"]["version"] == 5


async def test_what_a_device_has_said_itself_meanwhile_counts(world: World) -> None:
    report = world.write(5, ago=-60)
    world.hub.registry.report(PI, {"modelsync": {"models": {"a": {"version": 9}}}})
    with pytest.raises(RefusedError, match="has reported by itself since"):
        await world.carry(report)
    assert world.shown()["models"]["a"]["version"] == 9
    await world.carry(world.write(10, ago=60))
    assert world.shown()["models"]["a"]["version"] == 10


async def test_reports_that_were_written_before_the_last_one_was_set_are_good(world: World) -> None:
    """A courier brings two at once: the hub's clock is behind both."""
    first, second = world.write(5, ago=-600), world.write(6, ago=-300)
    await world.carry(first)
    await world.carry(second)
    assert world.shown()["models"]["a"]["version"] == 6


async def test_a_connected_device_speaks_for_itself(world: World) -> None:
    async with wire(world.hub) as line:
        await line.ask(connect_packet(world.hub, PI))
        with pytest.raises(RefusedError, match="is connected"):
            await world.carry(world.write(5))


async def test_a_session_that_the_device_left_stays(world: World) -> None:
    """With its subscriptions: the device's client does not make them again."""
    async with wire(world.hub) as line:
        await line.ask(connect_packet(world.hub, PI))
        await line.ask(mqtt.Subscribe(1, (("$iothub/methods/POST/#", 0),)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await world.service.twin("pi"))["connectionState"] == "Connected":  # noqa: ASYNC110 - what REST says
            await asyncio.sleep(0.02)
    await world.carry(world.write(5))
    async with wire(world.hub) as line:
        answer = await line.ask(connect_packet(world.hub, PI))
        assert isinstance(answer, mqtt.Connack) and answer.session_present


async def test_an_import_that_broke_off_can_be_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = device_session.report

    async def broken(*args: Any) -> None:
        raise UnreachableError("the line broke.")

    monkeypatch.setattr(device_session, "report", broken)
    with pytest.raises(UnreachableError):
        await world.carry(world.write(6))
    monkeypatch.setattr(device_session, "report", real)
    with pytest.raises(RefusedError, match="set here already, or a newer one"):
        await world.carry(world.write(5))
    await world.carry(world.write(6))
    assert world.shown()["models"]["a"]["version"] == 6


async def test_two_at_once_do_not_undo_each_other(world: World) -> None:
    found = await asyncio.gather(*(world.carry(world.write(n)) for n in (5, 6, 7)), return_exceptions=True)
    assert any(isinstance(each, Told) for each in found)
    assert all(isinstance(each, Told | ConflictError | RefusedError) for each in found), found
    highest = max(each.sequence for each in found if isinstance(each, Told))
    assert world.shown()["models"]["a"]["version"] == highest


async def test_a_hub_that_does_not_answer_is_said(world: World) -> None:
    await world.hub.device_side.stop()
    with pytest.raises(UnreachableError, match="does not answer"):
        await world.carry(world.write(5))


async def test_a_report_that_is_too_large_for_a_twin_is_refused(world: World) -> None:
    """Only a device with the key could write one."""
    with pytest.raises(RefusedError, match="does not take the report"):
        await world.carry(world.write(5, reported={"modelsync": {"models": {str(n): "x" * 4000 for n in range(9)}}}))


def test_the_command_needs_a_file(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = runner(monkeypatch, capsys)
    failed = run("import-report", tmp_path / "missing", "--state", tmp_path)
    assert failed.code == 2 and "can't be read" in failed.err
