"""One local hub with two thousand connected TLS devices: all hear of a change and report, and all come back.

The hub is a process of its own; the devices speak MQTT as the SDK does, each over a TLS connection of its own. After
the hub's restart they come back as daemons do, spread over half a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.bulk import add_many, numbered
from modelsync_server.hub.devices import DESIRED_NOTICES, TWIN_ANSWERS
from modelsync_server.hub.hub import HUB_NAME, connection_text
from modelsync_server.hub.state import State
from modelsync_server.iothub import sas
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from tests.support.addresses import loopback_address
from tests.support.figures import record

DEVICES = 2_000
CHANGE_SECONDS, BACK_SECONDS, SPREAD_SECONDS = 60.0, 120.0, 30.0
_AT_ONCE = 32
_READ_BYTES = 4096

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


class Device:
    """A connected device that reports the version it is told."""

    def __init__(self, name: str, key: str, host: str, context: ssl.SSLContext) -> None:
        self.name, self._key, self._host, self._context = name, key, host, context
        self.acknowledged = 0
        self.connected_at = 0.0
        self.online = False

    async def live(self, gate: asyncio.Semaphore) -> None:
        """Connect, and connect again after a while when the line is lost."""
        while True:
            with suppress(OSError, TimeoutError):
                await self._session(gate)
            self.online = False
            await asyncio.sleep(random.uniform(0.5, SPREAD_SECONDS))

    async def _session(self, gate: asyncio.Semaphore) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection(self._host, 8883, ssl=self._context, limit=_READ_BYTES)
        try:
            token = sas.sign(self._key, f"{HUB_NAME}/devices/{self.name}", int(time.time()) + 3600)
            user = f"{HUB_NAME}/{self.name}/?api-version=2019-10-01"
            writer.write(mqtt.encode(mqtt.Connect(self.name, False, 600, user, token.encode())))
            writer.write(mqtt.encode(mqtt.Subscribe(1, ((TWIN_ANSWERS, 0), (DESIRED_NOTICES, 0)))))
            decoder = mqtt.Decoder()
            while data := await reader.read(_READ_BYTES):
                for packet in decoder.feed(data):
                    self._take(packet, writer)
        finally:
            writer.transport.abort()

    def _take(self, packet: mqtt.Packet, writer: asyncio.StreamWriter) -> None:
        if isinstance(packet, mqtt.Suback):
            self.online, self.connected_at = True, time.monotonic()
        elif isinstance(packet, mqtt.Publish) and "/PATCH/properties/desired/" in packet.topic:
            version = json.loads(packet.payload)["modelsync"]["models"]["anomaly"]["version"]
            body = {"modelsync": {"models": {"anomaly": {"version": version, "state": "active"}}}}
            topic = f"$iothub/twin/PATCH/properties/reported/?$rid={version}"
            writer.write(mqtt.encode(mqtt.Publish(topic, json.dumps(body).encode())))
        elif isinstance(packet, mqtt.Publish) and packet.topic.startswith("$iothub/twin/res/204"):
            self.acknowledged = int(packet.topic.partition("$rid=")[2].partition("&")[0])


@asynccontextmanager
async def running_hub(state: Path, host: str) -> AsyncIterator[tuple[ServiceClient, int]]:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("modelsync"),
        *("hub", "--state", str(state), "--host", host, "--json"),
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stdout is not None
    line = json.loads(await process.stdout.readline())
    try:
        async with ServiceClient(parse_service(line["service"])) as client:
            yield client, process.pid
    finally:
        process.kill()
        await process.wait()


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def until(condition: Callable[[], bool], what: str, seconds: float) -> float:
    """Seconds until `condition()` holds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, what
        await asyncio.sleep(0.1)
    return time.monotonic() - begun


async def change(client: ServiceClient, version: int, etag: str | None = None) -> None:
    body = {
        "content": {"deviceContent": {"properties.desired.modelsync.models.anomaly": {"version": version}}},
        "targetCondition": "*",
        "priority": version,
    }
    await client.put_configuration(f"release-{version}", body, etag=etag)


async def test_two_thousand_devices_take_a_change_and_come_back_after_a_restart(tmp_path: Path, worker_id: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384), hard))
    host = loopback_address(worker_id)
    names = numbered("car-", DEVICES)
    with State(tmp_path) as state:
        add_many(state, [Identity(name) for name in names])
        keys = {name: connection_text(state, Identity(name)).partition("SharedAccessKey=")[2] for name in names}
    gate = asyncio.Semaphore(_AT_ONCE)
    tasks: list[asyncio.Task[None]] = []
    try:
        async with running_hub(tmp_path, host) as (client, pid):
            empty = resident_mib(pid)
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            devices = [Device(name, keys[name].partition(";")[0], host, context) for name in names]
            tasks = [asyncio.create_task(device.live(gate)) for device in devices]
            first = await until(lambda: all(device.online for device in devices), "all connect", 240)
            full = resident_mib(pid)
            await change(client, 2)
            told = await until(
                lambda: all(device.acknowledged == 2 for device in devices), "all report the change", CHANGE_SECONDS
            )
            text = "SELECT COUNT() AS n FROM devices WHERE properties.reported.modelsync.models.anomaly.version = 2"
            assert (await client.query_page(text))[0] == [{"n": DEVICES}]
        await until(lambda: not any(device.online for device in devices), "all notice that the hub died", 30)
        async with running_hub(tmp_path, host) as (client, pid):
            back = await until(lambda: all(device.online for device in devices), "all come back", BACK_SECONDS)
            seconds = Counter(int(device.connected_at) for device in devices)
            assert max(seconds.values()) < DEVICES / 4, "they came back all at once"
            await change(client, 3)
            await until(lambda: all(device.acknowledged == 3 for device in devices), "all report again", CHANGE_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    record(
        "hub-of-two-thousand",
        f"{DEVICES:,} TLS devices",
        connect_s=round(first, 1),
        change_s=round(told, 1),
        back_s=round(back, 1),
        most_back_in_a_second=max(seconds.values()),
        kib_a_device=round((full - empty) * 1024 / DEVICES, 1),
        cores=os.cpu_count() or 0,
    )
