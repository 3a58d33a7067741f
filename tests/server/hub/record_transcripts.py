"""Records what azure-iot-device itself sends: `python -m tests.server.hub.record_transcripts [NAME…]`.

Run by hand when the SDK's version changes. Between SDK and hub sits a relay that ends TLS on both sides; only the
device's bytes are kept, since what the hub has to answer is written by hand in test_transcripts.py. The keys are made
for this purpose and open nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import platform
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from azure.iot.device import Message as SdkMessage
from azure.iot.device import MethodResponse, user_agent
from azure.iot.device.aio import IoTHubDeviceClient, IoTHubModuleClient

from modelsync_server.hub.certificates import ensure
from modelsync_server.hub.hub import DEVICE_PORT, HUB_NAME, Hub, HubAddress
from modelsync_server.hub.routes import Message, Sink
from modelsync_server.iothub.identity import Identity
from tests.support.addresses import loopback_address
from tests.support.hub_sdk import set_handler, shut_down

TRANSCRIPTS = Path(__file__).parent / "transcripts"
KEY = "bm8gc2VjcmV0LCBtYWRlIGZvciB0cmFuc2NyaXB0cyE="
_TYPES = {
    1: "CONNECT",
    3: "PUBLISH",
    4: "PUBACK",
    8: "SUBSCRIBE",
    10: "UNSUBSCRIBE",
    12: "PINGREQ",
    14: "DISCONNECT",
}

Talk = Callable[[Any, Hub, Identity], Awaitable[None]]


async def talk_as_device(client: Any, hub: Hub, identity: Identity) -> None:
    """Everything that the daemon does with the SDK, once and in order."""
    await client.connect()
    await client.get_twin()
    noticed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def on_patch(patch: Any) -> None:
        loop.call_soon_threadsafe(noticed.set)

    async def on_method(request: Any) -> None:
        await client.send_method_response(MethodResponse.create_from_method_request(request, 200, {"ok": True}))

    await set_handler(client, "on_twin_desired_properties_patch_received", on_patch)
    hub.set_desired(identity.device, {"route": None, "telemetrySendFrequency": "5m"}, identity.module)
    await noticed.wait()
    await client.patch_twin_reported_properties({"firmware_version": "v1.1"})
    try:
        await client.patch_twin_reported_properties({"a.b": 1})
    except Exception as error:
        assert "400" in repr(error.__cause__) or "400" in repr(error), error
    await set_handler(client, "on_method_request_received", on_method)
    await hub.devices.invoke(identity, "status", {"full": True}, response_seconds=10, connect_seconds=0)
    telemetry: Any = SdkMessage
    message = telemetry("21 degrees")
    message.custom_properties["unit"] = "°C"
    if identity.module is None:
        await client.send_message(message)
    else:
        await client.send_message_to_output(message, "readings")


async def talk_as_scorer(client: Any, hub: Hub, identity: Identity) -> None:
    """What an inference module does: one message in by a route, one answer out."""
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def on_message(message: Any) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, message)

    await set_handler(client, "on_message_received", on_message)
    sender = Identity(identity.device, "sensor")
    message = Message(sender, {"$.on": "readings", "$.mid": "m-1", "unit": "°C"}, b'{"t": 21}')
    hub.messages.add(message, [Sink(identity.module, "readings")])
    hub.devices.on_inbox_open(identity)
    assert (await arrived.get()).message_id == "m-1"
    telemetry: Any = SdkMessage
    answer = telemetry('{"score": 1}', content_encoding="utf-8", content_type="application/json")
    answer.correlation_id = "m-1"
    await client.send_message_to_output(answer, "answers")


async def record(kind: Any, identity: Identity, talk: Talk, directory: Path) -> dict[str, Any]:
    """Run one conversation and return its transcript."""
    host = loopback_address()
    sent = bytearray()
    started = int(time.time())
    async with Hub(directory, HubAddress(host, device_port=0, service_port=0)) as hub:
        hub.state.add(Identity(identity.device), primary_key=KEY)
        hub.state.add(identity, primary_key=KEY)
        relay = await _relay(hub, sent)
        async with relay:
            text = hub.add_device(identity.device, identity.module)
            client = kind.create_from_connection_string(text, server_verification_cert=hub.ca_pem)
            async with shut_down(client):
                await talk(client, hub, identity)
            await asyncio.sleep(0.2)
    return {
        "sdk": f"azure-iot-device {version('azure-iot-device')}",
        "recorded_at": started,
        "host_name": HUB_NAME,
        "device": identity.device,
        "module": identity.module,
        "key": KEY,
        "packets": [{"type": _TYPES[p[0] >> 4], "hex": p.hex()} for p in split(bytes(sent))],
    }


async def _relay(hub: Hub, sent: bytearray) -> asyncio.Server:
    trust = ssl.create_default_context(cafile=str(hub.ca_path))
    pipes: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(hub.address.host, hub.address.device_port, ssl=trust)
        down = asyncio.create_task(_pipe(up_reader, writer, None))
        pipes.add(down)
        await _pipe(reader, up_writer, sent)

    context = ensure(hub.directory, hub.address.host).server_context()
    return await asyncio.start_server(accept, hub.address.host, DEVICE_PORT, ssl=context)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bytearray | None) -> None:
    try:
        while data := await reader.read(65536):
            if keep is not None:
                keep += data
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


def split(data: bytes) -> list[bytes]:
    """Cut a stream into packets by the remaining length alone (MQTT 3.1.1, clause 2.2.3)."""
    packets, start = [], 0
    while start < len(data):
        length, shift, index = 0, 0, start + 1
        while True:
            length |= (data[index] & 0x7F) << shift
            shift, index = shift + 7, index + 1
            if not data[index - 1] & 0x80:
                break
        packets.append(data[start : index + length])
        start = index + length
    return packets


def _anonymous() -> None:
    """Keep the recording machine's kernel out of the SDK's user agent, which is part of CONNECT."""
    platform.system, platform.version, platform.machine = (lambda: "Linux"), (lambda: "#1"), (lambda: "x86_64")
    platform.python_version = lambda: "3.11.9"
    importlib.reload(user_agent)


async def main() -> None:
    _anonymous()
    TRANSCRIPTS.mkdir(exist_ok=True)
    conversations: dict[str, tuple[Any, Identity, Talk]] = {
        "device": (IoTHubDeviceClient, Identity("thermostat-1"), talk_as_device),
        "module": (IoTHubModuleClient, Identity("edge-1", "modelsync"), talk_as_device),
        "scorer": (IoTHubModuleClient, Identity("edge-1", "scoring"), talk_as_scorer),
    }
    for name in sys.argv[1:] or conversations:
        kind, identity, talk = conversations[name]
        with tempfile.TemporaryDirectory() as directory:
            transcript = await record(kind, identity, talk, Path(directory) / "hub")
        text = json.dumps(transcript, indent=1) + "\n"
        (TRANSCRIPTS / f"{name}.json").write_text(text)


if __name__ == "__main__":
    asyncio.run(main())
