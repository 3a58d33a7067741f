"""IoT Hub without azure-iot-device: the same wire as the SDK's, by its transcripts and beside it at the local hub."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from modelsync_daemon.config import Settings
from modelsync_daemon.control.azure import AzureControlPlane
from modelsync_daemon.control.iothub import API_VERSION, HubControlPlane, parse_identity
from modelsync_daemon.control.plane import ControlPlane, MethodAnswer
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub import certificates
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from tests.rooms import ROOT
from tests.support.addresses import loopback_address
from tests.support.detours import connect_proxy, websocket_front
from tests.support.waiting import within

TRANSCRIPTS = ROOT / "tests" / "server" / "hub" / "transcripts"


async def _answer(name: str, payload: Any) -> MethodAnswer:
    return MethodAnswer(200, {"ok": True})


@pytest.mark.parametrize("name", ["device", "module"])
def test_the_credentials_are_the_recorded_ones_of_the_sdk(name: str) -> None:
    recorded = json.loads((TRANSCRIPTS / f"{name}.json").read_text())
    (connect,) = mqtt.Decoder().feed(bytes.fromhex(recorded["packets"][0]["hex"]))
    assert isinstance(connect, mqtt.Connect) and connect.username is not None and connect.password is not None
    module = f";ModuleId={recorded['module']}" if recorded["module"] else ""
    who = parse_identity(
        f"HostName={recorded['host_name']};DeviceId={recorded['device']}{module};SharedAccessKey={recorded['key']}"
    )
    expiry = int(connect.password.rpartition(b"=")[2])
    assert who.token(expiry) == connect.password.decode()
    ours, theirs = (text.partition("DeviceClientType=")[0] for text in (who.username, connect.username))
    assert (who.client_id, ours) == (connect.client_id, theirs) and API_VERSION in theirs
    assert not connect.clean_session


async def _sent(plane: Callable[[Settings], ControlPlane], root: Path, worker_id: str, module: str | None) -> list[str]:
    """What a client sends to the local hub for one story, without what differs from run to run."""
    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(root, address) as hub:
        said: list[str] = []
        receive = hub.devices.receive

        def record(identity: Identity, packet: mqtt.Packet) -> Any:
            if isinstance(packet, mqtt.Subscribe):
                said.extend(sorted(f"SUBSCRIBE {name} {qos}" for name, qos in packet.filters))
            elif isinstance(packet, mqtt.Publish):
                topic = re.sub(r"\$rid=[^&]+", "$rid=R", unquote(packet.topic))
                body = json.loads(packet.payload) if packet.payload.strip() else None
                said.append(f"PUBLISH {topic} {packet.qos} {packet.retain} {json.dumps(body, sort_keys=True)}")
            return receive(identity, packet)

        hub.devices.receive = record  # type: ignore[method-assign]  # an ear on the wire
        made = plane(Settings(data=root, connection_string=hub.add_device("pi", module), ca=hub.ca_path))
        hinted = asyncio.Event()
        made.listen(lambda version: hinted.set(), _answer)
        await within(made.connect())
        hub.set_desired("pi", {"modelsync": {"models": {"a": {"version": 1}}}}, module)
        await within(hinted.wait())
        await within(made.read_twin())
        await within(made.read_twin())
        await within(made.patch_reported({"modelsync": {"models": {"a": {"state": "active", "text": "µ"}, "b": None}}}))
        await within(
            hub.devices.invoke(Identity("pi", module), "status", {"x": 1}, response_seconds=9, connect_seconds=0)
        )
        await within(made.close())
        return said


@pytest.mark.parametrize("module", [None, "modelsync"])
async def test_both_clients_send_the_same_to_the_local_hub(tmp_path: Path, worker_id: str, module: str | None) -> None:
    theirs = await _sent(AzureControlPlane, tmp_path / "sdk", worker_id, module)
    ours = await _sent(HubControlPlane, tmp_path / "own", worker_id, module)
    assert sorted(ours) == sorted(theirs) and len(ours) == 7
    in_order = [line for line in ours if line.startswith("PUBLISH")]
    assert in_order == [line for line in theirs if line.startswith("PUBLISH")]


async def test_a_certificate_is_an_identity_and_a_key_that_is_none_is_said(tmp_path: Path, worker_id: str) -> None:
    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(tmp_path / "hub", address) as hub:
        text = hub.add_device("pi")
        certificates.issue_client(tmp_path / "hub", "pi", tmp_path / "identity")
        keys: dict[str, Any] = {
            "x509_cert": tmp_path / "identity" / "cert.pem",
            "x509_key": tmp_path / "identity" / "key.pem",
        }
        unsigned = ";".join(part for part in text.split(";") if not part.startswith("SharedAccessKey=")) + ";x509=true"
        plane = HubControlPlane(Settings(data=tmp_path, connection_string=unsigned, ca=hub.ca_path, **keys))
        await within(plane.connect())
        await within(plane.patch_reported({"modelsync": {"a": 1}}))
        await plane.close()
        broken = re.sub(r"SharedAccessKey=[^;]+", "SharedAccessKey=%%%", text)
        with pytest.raises(UsageError, match="not base64"):
            await within(HubControlPlane(Settings(data=tmp_path, connection_string=broken, ca=hub.ca_path)).connect())


async def test_a_report_that_the_hub_does_not_take_is_refused_in_its_words(tmp_path: Path, worker_id: str) -> None:
    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(tmp_path / "hub", address) as hub:
        plane = HubControlPlane(Settings(data=tmp_path, connection_string=hub.add_device("pi"), ca=hub.ca_path))
        await within(plane.connect())
        with pytest.raises(RefusedError, match=r"could not report to the hub: it answers 400"):
            await within(plane.patch_reported({"a.b": 1}))
        await plane.close()


async def test_a_proxy_and_websockets_carry_it_too(tmp_path: Path, worker_id: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: WebSockets, whose port 443 needs root")
    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with Hub(tmp_path / "hub", address) as hub:
        text = hub.add_device("pi")
        async with connect_proxy("user:right") as (proxy, port):
            settings = Settings(
                data=tmp_path, connection_string=text, ca=hub.ca_path, proxy=f"http://user:right@127.0.0.1:{port}"
            )
            plane = HubControlPlane(settings)
            await within(plane.connect())
            assert proxy.targets and plane.connected
            await plane.close()
            context = certificates.ensure(tmp_path / "hub", address.host).server_context()
            async with websocket_front(address.host, context, hub.address.device_port, hub.ca_pem) as paths:
                for proxied in (None, settings.proxy):
                    web = Settings(
                        data=tmp_path, connection_string=text, ca=hub.ca_path, websockets=True, proxy=proxied
                    )
                    plane = HubControlPlane(web)
                    await within(plane.connect())
                    await within(plane.patch_reported({"modelsync": {"a": 1}}))
                    assert plane.wire()[0] > 1000
                    await plane.close()
                assert paths == ["/$iothub/websocket"] * 2


@pytest.mark.parametrize(
    ("module", "lacks"),
    [
        ("iothub", {"azure", "paho", "requests", "urllib3", "aiohttp"}),
        ("broker", {"azure", "paho", "requests", "urllib3", "aiohttp"}),
        ("aws", {"azure", "paho", "requests", "urllib3", "aiohttp"}),
    ],
)
def test_a_client_of_our_own_wakes_nothing_of_the_sdk(module: str, lacks: set[str]) -> None:
    code = f"import sys, modelsync_daemon.control.{module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert not set(done.stdout.split()) & lacks
