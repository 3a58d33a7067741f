"""The mine's actuator against a plant that lies, stalls or refuses, another actuator, and messages that are no answers.

The actuator is the real one, and so is the OPC UA server; what the server says is the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest
import pytest_asyncio
from asyncua import Server, ua

from examples.mine import actuator, guard, tags
from examples.mine.actuator import Actuator
from examples.mine.line import OUTPUT, Limits
from examples.stories.edge import Edge
from modelsync_inference.edge.messages import Incoming

LIMITS = Limits()
Value = float | bool | int | None
TYPES = {bool: ua.VariantType.Boolean, float: ua.VariantType.Double, int: ua.VariantType.UInt32}


@dataclass
class Site:
    """An OPC UA server with one line's tags, and all that was written to it, in order."""

    server: Server
    url: str = ""
    writes: list[tuple[str, Any]] = field(default_factory=list)

    async def say(self, tag: str, value: Value, status: int = ua.StatusCodes.Good) -> None:
        variant = None if value is None else ua.Variant(value, TYPES[type(value)])
        node = tags.node("m", tag)
        await self.server.write_attribute_value(node, ua.DataValue(variant, ua.StatusCode(status)))

    def written(self, tag: str) -> list[Any]:
        return [value for name, value in self.writes if name == tag]


class Hub:
    """Messages in and out without an edgeHub between: what comes goes the way that the real one's goes."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self._link = None

    def arrives(self, body: bytes, *, to: str = "answers", **properties: str) -> None:
        Edge._take(cast("Edge", self), Incoming(input=to, body=body, properties=properties))

    async def send(self, output: str, document: dict[str, Any], message_id: str, **properties: str) -> None:
        self.sent.append(json.loads(json.dumps(document, allow_nan=False)))


pytestmark = pytest.mark.asyncio(loop_scope="module")
BEGINNING: dict[str, Value] = {"Manual": False, "Interlock": False, "Setpoint": 400.0, "Scan": 100}
BEGINNING |= {"Advised": 400.0, "Heartbeat": 7}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Site]:
    """One for all tests: asyncua reads its whole address space for each."""
    made = Site(Server())
    await made.server.init()
    made.server.set_endpoint("opc.tcp://127.0.0.1:0/mine")
    made.server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await made.server.register_namespace(tags.NAMESPACE)
    folder = await made.server.nodes.objects.add_object(tags.node("m", "Line"), "m")
    for tag, value in BEGINNING.items():
        node = await folder.add_variable(tags.node("m", tag), tag, ua.Variant(value, TYPES[type(value)]))
        await node.set_writable()

        async def heard(handle: int, value: ua.DataValue, error: object = None, tag: str = tag) -> None:
            if tag in ("Advised", "Heartbeat"):
                made.writes.append((tag, value.Value.Value if value.Value is not None else None))

        made.server.iserver.aspace.add_datachange_callback(tags.node("m", tag), ua.AttributeIds.Value, heard)
    async with made.server:
        made.url = f"opc.tcp://127.0.0.1:{made.server.bserver._server.sockets[0].getsockname()[1]}/mine"
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def site(server: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(actuator, "SCAN_SECONDS", 0.01)
    monkeypatch.setattr(actuator, "_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(guard, "TAKEOVER_SECONDS", 0.1)
    for tag, value in BEGINNING.items():
        await server.say(tag, value)
    server.writes.clear()
    return server


@contextlib.asynccontextmanager
async def running(site: Site) -> AsyncIterator[Hub]:
    """The actuator at work; a part of it that ends by itself fails the test."""
    hub = Hub()
    made = Actuator("m", site.url, LIMITS, cast("Edge", hub))
    parts = [asyncio.create_task(made.write()), asyncio.create_task(made.listen())]
    try:
        yield hub
    finally:
        ended = [part.exception() for part in parts if part.done()]
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
    assert not ended, ended


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - it is the plant that changes
            await asyncio.sleep(0.01)


async def beats(site: Site, number: int = 3) -> None:
    begin = len(site.written("Heartbeat"))
    await until(lambda: len(site.written("Heartbeat")) >= begin + number)


async def stands_still(site: Site) -> None:
    """Neither set-point nor heartbeat from a moment on."""
    await asyncio.sleep(0.08)
    before = list(site.writes)
    await asyncio.sleep(0.15)
    assert site.writes == before


@pytest.mark.parametrize(
    ("tag", "value", "status"),
    [
        ("Interlock", None, ua.StatusCodes.BadCommunicationError),
        ("Manual", False, ua.StatusCodes.BadSensorFailure),
        ("Manual", False, ua.StatusCodes.UncertainLastUsableValue),
        ("Setpoint", math.nan, ua.StatusCodes.Good),
        ("Setpoint", math.inf, ua.StatusCodes.Good),
        ("Heartbeat", None, ua.StatusCodes.BadOutOfService),
        ("Scan", None, ua.StatusCodes.BadNoCommunication),
    ],
)
async def test_who_has_the_line_is_not_guessed_and_old_advice_is_not_kept_alive(
    site: Site, tag: str, value: Value, status: int
) -> None:
    async with running(site):
        await beats(site)
        await site.say(tag, value, status)
        await stands_still(site)
        await site.say(tag, BEGINNING[tag])
        await beats(site)


async def test_a_plant_that_refuses_advice_is_not_shown_a_beating_heart(site: Site) -> None:
    async with running(site):
        await beats(site)
        advised = site.server.get_node(tags.node("m", "Advised"))
        await advised.set_writable(False)
        await stands_still(site)
        await advised.set_writable(True)
        await beats(site)


async def test_advice_begins_where_the_plant_is_after_a_pause_that_nobody_noticed(site: Site) -> None:
    """A human took the line and gave it back, or the plant fell back, while the process stood still."""
    async with running(site) as hub:
        await beats(site)
        hub.arrives(b'{"outputs": {"setpoint": [480]}}', scan="100")
        await until(lambda: site.written("Advised")[-1] > 400.2)
        await site.say("Setpoint", 330.0)
        at = len(site.written("Advised"))
        await until(lambda: len(site.written("Advised")) > at + 3)
        after = site.written("Advised")[at + 1 :]
        assert all(abs(value - 330.0) <= LIMITS.per_second for value in after), after


async def test_of_two_actuators_one_writes_and_the_other_takes_over_when_its_heart_stands_still(site: Site) -> None:
    async with running(site) as first:
        await beats(site)
        first.arrives(b'{"outputs": {"setpoint": [480]}}', scan="100")
        await until(lambda: site.written("Advised")[-1] > 400.1)
        site.writes.clear()
        async with running(site) as second:
            await beats(site, 20)
            second.arrives(b'{"outputs": {"setpoint": [300]}}', scan="100")
            await beats(site, 5)
        hearts = site.written("Heartbeat")
        assert all(after - before == 1 for before, after in pairwise(hearts)), "one heart"
        advised = site.written("Advised")
        assert advised == sorted(advised), "no step of the other's"
        assert second.sent[0]["verdict"] == "the plant is not seen"
    await site.say("Setpoint", 420.0)
    async with running(site):
        await beats(site)
        assert site.written("Advised")[-1] <= 420.0


HOSTILE = [
    b'{"outputs": {"setpoint": [%d]}}' % 10**400, b'{"outputs": {"setpoint": [NaN]}}', b'{"outputs": [1]}',
    b'{"outputs": {"setpoint": [-Infinity]}}', b'{"outputs": {"setpoint": "\\ud800"}}', b'{"outputs": null}',
    b'{"outputs": {"setpoint": 5e-324}}', b'{"outputs": {"setpoint": {"a": [1]}}}', b"[" * 100_000, b"\xff",
    b'{"outputs": {"setpoint": [400]}, "version": "one", "stamp": {"a": 1}}', b'{"version": NaN}',
    b'{"outputs": {"setpoint": [400]}, "version": 1e999, "scan": []}', b'{"properties": 5}', b"7",
]  # fmt: skip


async def test_no_message_ends_the_actuator_or_moves_the_plant(site: Site) -> None:
    async with running(site) as hub:
        await beats(site)
        for body in HOSTILE:
            for scan in ("101", "-1", "", "1e9", "٣", "9" * 30, "4294967295"):
                hub.arrives(body, scan=scan, stamp="x" * 5000)
                hub.arrives(body, to="unfit", scan=scan)
        hub.arrives(b'{"outputs": {"setpoint": [410]}}', scan="102")
        await until(lambda: bool(hub.sent) and hub.sent[-1]["scan"] == 102)
        assert hub.sent[-1]["verdict"] == "followed", hub.sent[-1]
        followed = [each for each in hub.sent if each["verdict"] == "followed"]
        assert {json.dumps(each["asked"]) for each in followed} <= {"[400]", "[410]"}
        await beats(site)
    assert all(LIMITS.low <= value <= LIMITS.high for value in site.written("Advised"))
    assert max(len(json.dumps(each)) for each in hub.sent) < 400


async def test_what_was_kept_for_hours_or_asks_for_scans_to_come_is_no_advice(site: Site) -> None:
    """Store and forward brings all answers of an outage at once; the plant's own scans say how old they are."""
    async with running(site) as hub:
        await site.say("Scan", 10_000)
        await beats(site)
        for scan, verdict in ((500, "late"), (9_960, "late"), (10_500, "ahead of the plant"), (9_999, "followed")):
            hub.arrives(b'{"outputs": {"%s": [480]}}' % OUTPUT.encode(), scan=str(scan))
            await until(lambda scan=scan: bool(hub.sent) and hub.sent[-1]["scan"] == scan)  # type: ignore[misc]
            assert hub.sent[-1]["verdict"] == verdict
        await site.say("Scan", 3)  # the plant was started anew
        await beats(site)
        hub.arrives(b'{"outputs": {"setpoint": [480]}}', scan="3")
        await until(lambda: hub.sent[-1]["scan"] == 3)
        assert hub.sent[-1]["verdict"] == "followed"
