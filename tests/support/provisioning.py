"""A stand-in for Azure's Device Provisioning Service: MQTT over TLS as `azure-iot-device` speaks it, on port 8883."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.iothub import sas

SCOPE = "0ne00000001"
_OPERATION = "4.d0a671905ea5b2c8.42d78160-4c78-479e-8be7-61d5e55dac0d"


class Provisioning:
    """Assigns every enrolled registration to `hub`. `keys`: registration id → base64 key, or "" for a certificate."""

    def __init__(self, hub: str, keys: dict[str, str]) -> None:
        self.hub, self.keys = hub, keys
        self.connects = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        decoder, registration = mqtt.Decoder(mqtt.MAX_PACKET_BYTES), ""
        try:
            while data := await reader.read(65536):
                for packet in decoder.feed(data):
                    if isinstance(packet, mqtt.Connect):
                        self.connects += 1
                        registration = packet.client_id
                        good = self._admits(packet, writer)
                        writer.write(mqtt.encode(mqtt.Connack(False, mqtt.ACCEPTED if good else mqtt.NOT_AUTHORISED)))
                        if not good:
                            return
                    elif isinstance(packet, mqtt.Subscribe):
                        writer.write(mqtt.encode(mqtt.Suback(packet.packet_id, (1,) * len(packet.filters))))
                    elif isinstance(packet, mqtt.Publish):
                        if packet.packet_id is not None:
                            writer.write(mqtt.encode(mqtt.Puback(packet.packet_id)))
                        writer.write(mqtt.encode(self._answer(packet.topic, registration)))
                    elif isinstance(packet, mqtt.Disconnect):
                        return
        except OSError:
            return
        finally:
            writer.close()

    def _admits(self, packet: mqtt.Connect, writer: asyncio.StreamWriter) -> bool:
        registration = packet.client_id
        if not (packet.username or "").startswith(f"{SCOPE}/registrations/{registration}/"):
            return False
        key = self.keys.get(registration)
        if key == "":
            certificate = writer.get_extra_info("peercert") or {}
            names = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
            return names == [registration]
        try:
            token = sas.parse((packet.password or b"").decode())
            sas.check(token, [key or ""], [f"{SCOPE}/registrations/{registration}"], time.time())
        except sas.SasError:
            return False
        return True

    def _answer(self, topic: str, registration: str) -> mqtt.Publish:
        rid = topic.partition("$rid=")[2].partition("&")[0]
        if "/iotdps-register/" in topic:
            body: dict[str, object] = {"operationId": _OPERATION, "status": "assigning"}
            return mqtt.Publish(f"$dps/registrations/res/202/?$rid={rid}&retry-after=1", json.dumps(body).encode())
        state = {
            "registrationId": registration,
            "createdDateTimeUtc": "2026-11-20T12:00:00.0Z",
            "assignedHub": self.hub,
            "deviceId": registration,
            "status": "assigned",
            "substatus": "initialAssignment",
            "lastUpdatedDateTimeUtc": "2026-11-20T12:00:00.0Z",
            "etag": "IjAwMDAi",
        }
        body = {"operationId": _OPERATION, "status": "assigned", "registrationState": state}
        return mqtt.Publish(f"$dps/registrations/res/200/?$rid={rid}", json.dumps(body).encode())


@asynccontextmanager
async def provisioning(
    host: str, context: ssl.SSLContext, hub: str, keys: dict[str, str]
) -> AsyncIterator[Provisioning]:
    """Listen on `host`:8883."""
    service = Provisioning(hub, keys)
    server = await asyncio.start_server(service.serve, host, 8883, ssl=context)
    async with server:
        yield service
