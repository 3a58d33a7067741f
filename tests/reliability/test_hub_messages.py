"""Twin messages lost, late, out of order or doubled: the device ends with the last wish, and the hub knows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelsync_daemon.activate.activation import Patience
from modelsync_daemon.config import Settings
from modelsync_daemon.control.azure import AzureControlPlane
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.resident import Resident
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from tests.daemon.fakes import NAME, QUICK, FakePreparer
from tests.support.addresses import loopback_address
from tests.support.figures import record
from tests.support.waiting import until

CALL_SECONDS, RECONCILE_SECONDS = 2.0, 3
NOTICE, TWIN, ACKNOWLEDGED = "$iothub/twin/PATCH/properties/desired", "$iothub/twin/res/200", "$iothub/twin/res/204"
RECONNECT_BYTES = 16 * 1024
"""What one more connection may cost: TLS handshake, subscriptions, the twin; both directions."""


@dataclass(frozen=True, slots=True)
class MessageFault:
    """The next `times` messages whose topic begins with `topic` are sent once for each of `delays` (seconds)."""

    name: str
    topic: str
    delays: tuple[float, ...]
    times: int
    says: str = ""
    """What the device logs; empty: nothing."""
    reconnects: int = 0
    """The most connections that it may cost."""


FAULTS = (
    MessageFault("every notice lost", NOTICE, (), 99),
    MessageFault("notices late by 1 s", NOTICE, (1.0,), 99),
    MessageFault("the first notice after the second", NOTICE, (1.5,), 1),
    MessageFault("every notice five times", NOTICE, (0.0,) * 5, 99),
    MessageFault("the answer with the twin lost", TWIN, (), 1, "no answer", 1),
    MessageFault("the answer with the twin too late", TWIN, (CALL_SECONDS + 1.0,), 1, "no answer", 1),
    MessageFault("the answer with the twin late and doubled", TWIN, (0.5, 0.5), 99),
    MessageFault("the acknowledgement of a report lost", ACKNOWLEDGED, (), 1, "no answer", 1),
    MessageFault("the acknowledgement of a report doubled", ACKNOWLEDGED, (0.0, 0.1), 99),
    MessageFault("every message lost once", "$iothub/twin", (), 4, "no answer", 4),
)


@dataclass
class World:
    """A hub whose messages a fault gets hold of, and a resident daemon with the real SDK."""

    hub: Hub
    plane: AzureControlPlane
    data: DataDir
    task: asyncio.Task[None]
    fault: MessageFault | None = None
    hit: int = 0
    sent: list[str] = field(default_factory=list)

    def wish(self, version: int) -> None:
        """Set the desired version."""
        self.hub.set_desired(
            "pi", {"modelsync": {"origin": "http://o.invalid", "models": {NAME: {"version": version}}}}
        )

    def settled(self, version: int) -> bool:
        """Whether `version` serves, and the hub shows it."""
        current = self.data.read_pointer(NAME)
        shown = self.hub.reported("pi").get("modelsync", {}).get("models", {}).get(NAME, {})
        return current is not None and current.version == shown.get("version") == version and shown["state"] == "active"

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait; AssertionError."""

        def holds() -> bool:
            assert not self.task.done(), what
            return condition()

        await until(holds, what)


@contextlib.asynccontextmanager
async def world(root: Path, worker_id: str) -> AsyncIterator[World]:
    """Version 1 serves, and the hub knows."""
    made: list[World] = []

    def outgoing(identity: Identity, packet: mqtt.Publish) -> Iterable[float]:
        here = made[0] if made else None
        if here is None:
            return (0.0,)
        here.sent.append(packet.topic)
        if here.fault and here.hit < here.fault.times and packet.topic.startswith(here.fault.topic):
            here.hit += 1
            return here.fault.delays
        return (0.0,)

    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(root / "hub", address, outgoing=outgoing) as hub:
        settings = Settings(
            data=root / "device",
            connection_string=hub.add_device("pi"),
            ca=hub.ca_path,
            reconcile_seconds=RECONCILE_SECONDS,
        )
        data = DataDir(settings.data)
        data.create()
        with contextlib.closing(Database.open(data)) as database:
            plane = AzureControlPlane(settings, call_seconds=CALL_SECONDS, grace_seconds=0.2)
            patience = Patience(probation=0.0, settle=0.0)
            resident = Resident(
                settings, data, database, FakePreparer(data, database), plane, patience, QUICK, QUICK, QUICK
            )
            here = World(hub, plane, data, asyncio.ensure_future(resident.run()))
            made.append(here)
            try:
                here.wish(1)
                await here.until(lambda: here.settled(1), "version 1")
                yield here
            finally:
                here.task.cancel()
                await asyncio.gather(here.task, return_exceptions=True)


async def _trial(root: Path, worker_id: str, fault: MessageFault, caplog: pytest.LogCaptureFixture) -> None:
    async with world(root, worker_id) as here:
        caplog.clear()
        caplog.set_level(logging.WARNING, "modelsync_daemon")
        before, seen = sum(here.plane.wire()), len(here.sent)
        here.fault = fault
        here.wish(2)
        here.wish(3)
        await here.until(lambda: here.settled(3), "version 3")
        await here.until(lambda: here.hit > 0, "the fault")
        await here.until(lambda: not fault.says or bool(caplog.records), "its log")
        await here.until(lambda: here.plane.connected and here.settled(3), "the connection")
        said = [record.getMessage() for record in caplog.records if record.name.startswith("modelsync_daemon")]
        wire, messages = sum(here.plane.wire()) - before, len(here.sent) - seen
    reconnects = sum("hub:" in sentence for sentence in said)
    assert reconnects <= fault.reconnects, said
    assert not said or (fault.says and all(fault.says in sentence for sentence in said)), said
    assert all("\n" not in sentence for sentence in said)
    assert wire <= RECONNECT_BYTES * (1 + fault.reconnects), wire
    record(
        "hub",
        fault.name,
        device_says=said[-1].partition(" (next")[0] if said else "nothing",
        connections=reconnects,
        hub_sent_messages=messages,
        bytes_both_ways=wire,
        at_most=RECONNECT_BYTES * (1 + fault.reconnects),
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_the_last_wish_is_followed_and_the_hub_knows_it(
    fault: MessageFault, tmp_path: Path, worker_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    await _trial(tmp_path, worker_id, fault, caplog)


async def test_a_lost_notice_is_noticed_if_the_twin_is_not_read_on_a_timer(
    tmp_path: Path, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelsync_daemon.control.hub_link.jitter", lambda seconds: 3600.0)
    async with world(tmp_path, worker_id) as here:
        here.fault = FAULTS[0]
        here.wish(2)
        await asyncio.sleep(2.0 * RECONCILE_SECONDS)
        assert not here.settled(2)


def test_tokens_of_devices_that_connected_together_end_apart(tmp_path: Path) -> None:
    random.seed(1)
    settings = Settings(data=tmp_path, connection_string="HostName=h;DeviceId=d;SharedAccessKey=a2V5")
    uses = [AzureControlPlane(settings)._token_use() / settings.token_seconds for _ in range(1000)]
    assert 0.72 <= min(uses) < 0.73 and 0.89 < max(uses) <= 0.9
    tenths = [sum(low <= use < low + 0.018 for use in uses) for low in (0.72 + 0.018 * step for step in range(10))]
    assert max(tenths) < 150, "more than the spread allows in a tenth of it"
