"""The fault hook: messages to devices can be lost, late or doubled, and the real SDK shows what that does to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from tests.support.hub_sdk import collector, sdk_device, set_handler
from tests.support.waiting import until, within


class Faults:
    """Loses, delays or doubles the next messages whose topic begins with `prefix`."""

    def __init__(self) -> None:
        self.prefix = "$nothing"
        self.delays: Iterable[float] = (0.0,)
        self.seen: list[str] = []

    def __call__(self, identity: Identity, packet: mqtt.Publish) -> Iterable[float]:
        self.seen.append(packet.topic)
        return self.delays if packet.topic.startswith(self.prefix) else (0.0,)


async def test_a_lost_twin_answer_never_completes_and_the_next_one_does(tmp_path: Path, address: HubAddress) -> None:
    faults = Faults()
    async with Hub(tmp_path, address, outgoing=faults) as hub, sdk_device(hub) as client:
        await within(client.get_twin())
        faults.prefix, faults.delays = "$iothub/twin/res/200", ()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get_twin(), 0.5)
        assert faults.seen[-1].startswith("$iothub/twin/res/200")
        faults.prefix = "$nothing"
        assert "desired" in await within(client.get_twin())


async def test_a_doubled_and_delayed_notice_comes_twice(tmp_path: Path, address: HubAddress) -> None:
    faults = Faults()
    async with Hub(tmp_path, address, outgoing=faults) as hub, sdk_device(hub) as client:
        notices, handler = collector()
        await within(client.get_twin())
        await within(set_handler(client, "on_twin_desired_properties_patch_received", handler))
        faults.prefix, faults.delays = "$iothub/twin/PATCH", (0.2, 0.0)
        hub.set_desired("pi", {"a": 1})
        assert await within(notices.get()) == {"a": 1, "$version": 2}
        assert await within(notices.get()) == {"a": 1, "$version": 2}


async def test_a_cut_line_is_noticed_and_the_client_comes_back(tmp_path: Path, address: HubAddress) -> None:
    async with Hub(tmp_path, address) as hub, sdk_device(hub) as client:
        before = hub.devices.connected_since(Identity("pi"))
        hub.device_side.drop_all()
        await until(lambda: hub.devices.connected_since(Identity("pi")) not in (before, None), "the client")
        assert "reported" in await within(client.get_twin())
