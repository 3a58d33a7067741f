"""One contract for every control plane: the fake in memory, azure-iot-device as device and as Edge module, our own
client of IoT Hub (MQTT and WebSockets), a real Mosquitto with MQTT 5 and 3.1.1, and AWS IoT's stand-in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device.common.alarm import Alarm

from modelsync_daemon.config import Settings, from_environment
from modelsync_daemon.control.aws import AwsControlPlane
from modelsync_daemon.control.azure import AzureControlPlane
from modelsync_daemon.control.broker import BrokerControlPlane
from modelsync_daemon.control.iothub import HubControlPlane
from modelsync_daemon.control.plane import ControlPlane, MethodAnswer
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.broker.address import parse
from modelsync_server.broker.aws import AwsService
from modelsync_server.broker.service import BrokerService
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.hub.workload import Workload, WorkloadAddress
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from tests.daemon.fakes import MemoryControlPlane
from tests.support.addresses import loopback_address
from tests.support.aws_iot import aws_iot
from tests.support.mosquitto import mosquitto
from tests.support.waiting import within

HubClient = Callable[..., ControlPlane]
"""The two that speak to IoT Hub."""


@dataclass
class World:
    """A control plane and the hub's other side: what an operator does and sees."""

    plane: ControlPlane
    set_desired: Callable[[dict[str, Any]], Awaitable[int]]
    """Merge into the desired properties, as an operator does; the new `$version`."""
    reported: Callable[[], Awaitable[dict[str, Any]]]
    call: Callable[[str, Any], Awaitable[tuple[int, Any]]]
    drop: Callable[[], Awaitable[None]]
    hints: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue)
    methods: list[tuple[str, Any]] = field(default_factory=list)

    async def answer(self, name: str, payload: Any) -> MethodAnswer:
        """The device's side of a method."""
        self.methods.append((name, payload))
        return MethodAnswer(202, {"echo": payload})


def _memory() -> World:
    plane = MemoryControlPlane()

    async def call(name: str, payload: Any) -> tuple[int, Any]:
        answer = await plane.call(name, payload)
        return answer.status, answer.payload

    async def set_desired(patch: dict[str, Any]) -> int:
        plane.set_desired(patch)
        return int(plane.desired["$version"])

    async def reported() -> dict[str, Any]:
        return plane.reported

    async def drop() -> None:
        plane.drop()

    return World(plane, set_desired, reported, call, drop)


async def _azure(root: Path, worker_id: str, stack: AsyncExitStack, module: str | None, own: bool = False) -> World:
    """`own`: by our own client."""
    address = HubAddress(loopback_address(worker_id), service_port=0)
    hub = await stack.enter_async_context(Hub(root / "hub", address))
    service = await stack.enter_async_context(ServiceClient(hub.service))
    if own:
        settings = Settings(
            data=root, connection_string=hub.add_device("pi", module), ca=hub.ca_path, control_client="own"
        )
    elif module is None:
        settings = Settings(data=root, connection_string=hub.add_device("pi"), ca=hub.ca_path)
    else:
        listen = WorkloadAddress(root / "workload.sock")
        workload = await stack.enter_async_context(
            Workload(hub.state, Identity("pi", module), hub.address.host, listen)
        )
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        environment = {**workload.environment, "MODELSYNC_DATA": str(root)}
        for key, value in environment.items():
            patch.setenv(key, value)
        settings = from_environment(environment)

    async def call(name: str, payload: Any) -> tuple[int, Any]:
        answer = await service.invoke("pi", name, payload, module, response_seconds=10)
        return answer.status, answer.payload

    async def set_desired(patch: dict[str, Any]) -> int:
        hub.set_desired("pi", patch, module)
        return int((await service.twin("pi", module))["properties"]["desired"]["$version"])

    async def reported() -> dict[str, Any]:
        return hub.reported("pi", module)

    async def drop() -> None:
        hub.device_side.drop_all()

    plane = AzureControlPlane(settings, grace_seconds=0.2) if not own else HubControlPlane(settings)
    return World(plane, set_desired, reported, call, drop)


async def _broker(root: Path, protocol: str, stack: AsyncExitStack) -> World:
    served = stack.enter_context(mosquitto(root / "broker", persistence=True))
    address = parse(f"{served.url}/fleet")
    settings = Settings(
        data=root,
        control_kind="mqtt",
        control_url=served.url,
        control_device="pi",
        control_topic="fleet",
        control_protocol=protocol,
    )

    async def set_desired(patch: dict[str, Any]) -> int:
        async with BrokerService(address) as service:
            return int((await service.set_desired("pi", patch))["properties"]["desired"]["$version"])

    async def reported() -> dict[str, Any]:
        async with BrokerService(address) as service:
            found: dict[str, Any] = (await service.twin("pi"))["properties"]["reported"]
            return found

    async def call(name: str, payload: Any) -> tuple[int, Any]:
        async with BrokerService(address) as service:
            answer = await service.invoke("pi", name, payload, response_seconds=10)
            return answer.status, answer.payload

    async def drop() -> None:
        served.stop()
        served.start()

    return World(BrokerControlPlane(settings), set_desired, reported, call, drop)


async def _aws(root: Path, stack: AsyncExitStack) -> World:
    served = stack.enter_context(mosquitto(root / "broker"))
    services = await stack.enter_async_context(aws_iot(served))
    service = await stack.enter_async_context(AwsService(replace(parse(served.url), aws=True)))
    settings = Settings(
        data=root, control_kind="aws", control_url=served.url, control_device="pi", control_protocol="3.1.1"
    )
    plane = AwsControlPlane(settings)

    async def set_desired(patch: dict[str, Any]) -> int:
        return await services.desire("pi", "modelsync", patch["modelsync"])

    async def reported() -> dict[str, Any]:
        found: dict[str, Any] = (await service.twin("pi"))["properties"]["reported"]
        return found

    async def call(name: str, payload: Any) -> tuple[int, Any]:
        answer = await service.invoke("pi", name, payload, response_seconds=10)
        return answer.status, answer.payload

    async def drop() -> None:
        """In 3.1.1 nobody says why: another client takes the thing's place, and goes."""
        intruder = AwsControlPlane(settings)
        await intruder.connect()
        await intruder.close()

    return World(plane, set_desired, reported, call, drop)


@pytest.fixture(params=["memory", "device", "edge module", "own", "own module", "broker 5", "broker 3.1.1", "aws"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, worker_id: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            made = _memory()
        elif request.param.startswith("broker"):
            made = await _broker(tmp_path, request.param.removeprefix("broker "), stack)
        elif request.param == "aws":
            made = await _aws(tmp_path, stack)
        elif request.param.startswith("own"):
            module = "modelsync" if request.param == "own module" else None
            made = await _azure(tmp_path, worker_id, stack, module, own=True)
        else:
            module = "modelsync" if request.param == "edge module" else None
            made = await _azure(tmp_path, worker_id, stack, module)
        made.plane.listen(made.hints.put_nowait, made.answer)
        yield made
        await made.plane.close()


async def test_the_twin_is_read_with_versions(world: World) -> None:
    version = await world.set_desired({"modelsync": {"models": {"a": {"version": 1}}}})
    before = world.plane.connected
    await within(world.plane.connect())
    assert (before, world.plane.connected) == (False, True)
    twin = await within(world.plane.read_twin())
    assert twin.desired["modelsync"] == {"models": {"a": {"version": 1}}} and twin.desired["$version"] == version
    assert await within(world.plane.read_twin()) == twin


async def test_a_change_gives_a_hint_with_its_version(world: World) -> None:
    await within(world.plane.connect())
    await within(world.plane.read_twin())
    version = await world.set_desired({"modelsync": {"a": 1}})
    assert await within(world.hints.get()) == version
    await within(world.plane.read_twin())
    assert (await within(world.plane.read_twin())).desired["modelsync"]["a"] == 1


async def test_reported_properties_are_merged(world: World) -> None:
    await within(world.plane.connect())
    await within(world.plane.patch_reported({"modelsync": {"a": 1, "b": {"c": 2}}}))
    await within(world.plane.patch_reported({"modelsync": {"a": None, "b": {"d": 3}}}))
    assert (await world.reported())["modelsync"] == {"b": {"c": 2, "d": 3}}


async def test_methods_are_answered_on_the_owners_loop(world: World) -> None:
    await within(world.plane.connect())
    assert await within(world.call("rollback", {"model": "a"})) == (202, {"echo": {"model": "a"}})
    assert world.methods == [("rollback", {"model": "a"})]


async def test_a_lost_line_is_told_and_a_new_connect_begins_afresh(world: World) -> None:
    await within(world.plane.connect())
    await world.drop()
    assert "." in await within(world.plane.wait_lost())
    assert not world.plane.connected
    with pytest.raises(UnreachableError):
        await within(world.plane.patch_reported({"a": 1}))
    await world.set_desired({"modelsync": {"while": "away"}})
    await within(world.plane.connect())
    assert (await within(world.plane.read_twin())).desired["modelsync"]["while"] == "away"
    while not world.hints.empty():
        world.hints.get_nowait()  # of what came with the reading
    version = await world.set_desired({"modelsync": {"x": 2}})
    assert await within(world.hints.get()) == version


async def test_bytes_are_counted_and_survive_reconnects(world: World) -> None:
    await within(world.plane.connect())
    await within(world.plane.read_twin())
    first = world.plane.wire()
    await within(world.plane.connect())
    await within(world.plane.read_twin())
    await within(world.plane.read_twin())
    second = world.plane.wire()
    assert second[0] > first[0] > 0 and second[1] > first[1] > 0


async def test_closing_twice_is_harmless(world: World) -> None:
    await within(world.plane.connect())
    await within(world.plane.close())
    await within(world.plane.close())
    assert not world.plane.connected


@pytest.mark.parametrize("client", [AzureControlPlane, HubControlPlane])
async def test_a_lost_answer_does_not_hang(tmp_path: Path, worker_id: str, client: HubClient) -> None:
    lose = False

    def outgoing(identity: Identity, packet: mqtt.Publish) -> tuple[float, ...]:
        return () if lose and packet.topic.startswith("$iothub/twin/res") else (0.0,)

    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(tmp_path / "hub", address, outgoing=outgoing) as hub:
        settings = Settings(data=tmp_path, connection_string=hub.add_device("pi"), ca=hub.ca_path)
        plane = client(settings, call_seconds=1.0)
        await within(plane.connect())
        await within(plane.read_twin())
        lose = True
        with pytest.raises(UnreachableError, match="no answer"):
            await within(plane.read_twin())
        sentence = await within(plane.wait_lost())
        assert sentence and not plane.connected
        lose = False
        await within(plane.connect())
        assert (await within(plane.read_twin())).desired["$version"] == 1
        await within(plane.close())


@pytest.mark.parametrize("client", [AzureControlPlane, HubControlPlane])
async def test_a_token_near_its_end_means_a_new_connection_and_no_ticking_thread(
    tmp_path: Path, worker_id: str, client: HubClient
) -> None:
    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(tmp_path / "hub", address) as hub:
        settings = Settings(data=tmp_path, connection_string=hub.add_device("pi"), ca=hub.ca_path, token_seconds=300)
        plane = client(settings, token_share=0.002)
        await within(plane.connect())
        assert all(thread.finished.is_set() for thread in threading.enumerate() if isinstance(thread, Alarm))
        assert "built anew" in await within(plane.wait_lost())
        await within(plane.connect())
        assert plane.connected
        await within(plane.close())


@pytest.mark.parametrize("client", [AzureControlPlane, HubControlPlane])
async def test_wrong_keys_and_no_hub_have_words_of_their_own(tmp_path: Path, worker_id: str, client: HubClient) -> None:
    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(tmp_path / "hub", address) as hub:
        text = hub.add_device("pi")
        key = text.split("SharedAccessKey=")[1].split(";")[0]
        wrong = text.replace(key, "A" * (len(key) - 4) + "AAA=")
        refused = client(Settings(data=tmp_path, connection_string=wrong, ca=hub.ca_path))
        with pytest.raises(RefusedError, match="credentials"):
            await within(refused.connect())
        ca = tmp_path / "ca.pem"
        ca.write_text(hub.ca_pem)
        other = client(Settings(data=tmp_path, connection_string=text))
        with pytest.raises(UnreachableError):
            await within(other.connect())
    gone = client(Settings(data=tmp_path, connection_string=text, ca=ca))
    with pytest.raises(UnreachableError):
        await within(gone.connect())
    with pytest.raises(UsageError, match="connection string"):
        await within(client(Settings(data=tmp_path, connection_string="nonsense")).connect())


@pytest.mark.parametrize("client", [AzureControlPlane, HubControlPlane])
async def test_a_change_right_behind_the_first_reading_is_told(
    tmp_path: Path, worker_id: str, client: HubClient
) -> None:
    """What the hub answers first must not be older than the notices: between the two a wish would be lost."""
    answered = asyncio.Event()

    def outgoing(identity: Identity, packet: mqtt.Publish) -> tuple[float, ...]:
        if packet.topic.startswith("$iothub/twin/res/200") and not answered.is_set():
            answered.set()
            hub.set_desired("pi", {"modelsync": {"models": {"a": {"version": 7}}}})
        return (0.0,)

    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(tmp_path / "hub", address, outgoing=outgoing) as hub:
        settings = Settings(data=tmp_path, connection_string=hub.add_device("pi"), ca=hub.ca_path)
        plane = client(settings)
        hints: asyncio.Queue[int | None] = asyncio.Queue()

        async def answer(name: str, payload: Any) -> MethodAnswer:
            return MethodAnswer(200, {})

        plane.listen(hints.put_nowait, answer)
        await within(plane.connect())
        assert answered.is_set()
        assert (await plane.read_twin()).desired["$version"] == 1
        assert await within(hints.get()) == 2
        await plane.close()
