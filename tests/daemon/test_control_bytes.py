"""What the same story of an update costs on each control plane: bytes of TCP payload with TLS, as the kernel counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from modelsync_daemon.config import Settings
from modelsync_daemon.control.azure import AzureControlPlane
from modelsync_daemon.control.broker import BrokerControlPlane
from modelsync_daemon.control.iothub import HubControlPlane
from modelsync_daemon.control.plane import ControlPlane, MethodAnswer
from modelsync_protocol import twin
from modelsync_server.broker.address import parse
from modelsync_server.broker.service import BrokerService
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.addresses import loopback_address
from tests.support.mosquitto import mosquitto

DIGEST = "5cf5f4b735a59f6dce9734726c95da30ba41ce65bb074c805552443d3bf60c42"


def _report(version: int, state: str, models: int) -> dict[str, Any]:
    """The reported half of a device that serves `models` models, the first of them just being updated."""
    old = {
        "version": 1,
        "digest": DIGEST,
        "generation": 1,
        "state": "active",
        "since": "2026-11-29T02:23:13Z",
        "bytes": 2224,
    }
    first = {**old, "version": version, "state": state, "desired": 2, "generation": version}
    spent = {"received": 3403 + version * 1700, "sent": 396 + version * 400}
    section = {
        "models": {"anomaly": first, **{f"other-{n}": old for n in range(models - 1)}},
        "daemon": {"version": "0.1.0", "formats": [1, 2]},
        "ledger": {"day": spent, "month": spent},
    }
    return {twin.SECTION: section}


async def _story(plane: ControlPlane, wish: Any, models: int) -> int:
    """Be wished a version, read it, report that it is fetched and that it serves; the bytes of both directions."""

    async def answer(name: str, payload: Any) -> MethodAnswer:
        return MethodAnswer(200, {})

    hinted = asyncio.Event()
    plane.listen(lambda version: hinted.set(), answer)
    await plane.connect()
    shown = dict((await plane.read_twin()).reported)
    await plane.patch_reported(twin.difference(shown, _report(1, "active", models)))
    begin = sum(plane.wire())
    hinted.clear()
    await wish()
    await hinted.wait()
    await plane.read_twin()
    before = _report(1, "active", models)
    for after in (_report(1, "fetching", models), _report(2, "active", models)):
        await plane.patch_reported(twin.difference(before, after))
        before = after
    spent = sum(plane.wire()) - begin
    await plane.close()
    return spent


@contextlib.asynccontextmanager
async def _hub(root: Path, worker_id: str, own: bool) -> AsyncIterator[tuple[ControlPlane, Any]]:
    async with Hub(root / "hub", HubAddress(loopback_address(worker_id), service_port=0)) as hub:
        settings = Settings(data=root, connection_string=hub.add_device("pi"), ca=hub.ca_path)

        async def wish() -> None:
            hub.set_desired("pi", {"modelsync": {"models": {"anomaly": {"version": 2}}}})

        yield HubControlPlane(settings) if own else AzureControlPlane(settings), wish


@contextlib.asynccontextmanager
async def _broker(root: Path, protocol: str) -> AsyncIterator[tuple[ControlPlane, Any]]:
    with mosquitto(root / "broker", tls=True) as served:
        assert served.tls is not None
        settings = Settings(
            data=root,
            control_kind="mqtt",
            control_url=served.url,
            control_device="pi",
            control_protocol=protocol,
            ca=served.tls.ca,
        )

        async def wish() -> None:
            async with BrokerService(parse(f"{served.url}?ca={served.tls.ca}")) as service:  # type: ignore[union-attr]
                await service.set_desired("pi", {"modelsync": {"models": {"anomaly": {"version": 2}}}})

        yield BrokerControlPlane(settings), wish


async def test_an_update_costs_no_more_on_a_broker_than_on_iot_hub(tmp_path: Path, worker_id: str) -> None:
    places: dict[str, Callable[[Path], AbstractAsyncContextManager[tuple[ControlPlane, Any]]]] = {
        "IoT Hub, azure-iot-device": lambda root: _hub(root, worker_id, own=False),
        "IoT Hub, our own client": lambda root: _hub(root, worker_id, own=True),
        "broker, MQTT 3.1.1": lambda root: _broker(root, "3.1.1"),
        "broker, MQTT 5": lambda root: _broker(root, "5"),
    }
    for models in (1, 20):
        spent: dict[str, int] = {}
        for number, (name, place) in enumerate(places.items()):
            root = tmp_path / f"{models}-{number}"
            root.mkdir()
            async with asyncio.timeout(30), place(root) as (plane, wish):
                spent[name] = await _story(plane, wish, models)
        ours, sdk = spent["IoT Hub, our own client"], spent["IoT Hub, azure-iot-device"]
        for name in ("broker, MQTT 3.1.1", "broker, MQTT 5"):
            assert spent[name] <= min(sdk, ours), (models, spent)
        assert ours <= sdk
