"""AWS IoT Core in a hub's place: a thing's named shadow is its twin, calls go over topics of our own.

Source: docs.aws.amazon.com/iot/latest/developerguide, "Device Shadow MQTT topics". Tried against a stand-in only.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from modelsync_protocol import twin
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import broker
from modelsync_server.broker.service import BrokerService, checked
from modelsync_server.iothub.service_client import ConflictError, MethodResult, NotFoundError, NotOnlineError

_SECONDS = 30.0
_LATER = frozenset({429, 500, 503})
Json = dict[str, Any]


class AwsService(BrokerService):
    """`async with AwsService(address) as hub`. The address's prefix is the shadow's name."""

    what = "AWS IoT"

    async def twin(self, device: str, module: str | None = None) -> Json:
        """The thing's shadow, in the form of the service REST."""
        topics = self.topics(device, module)
        document = await self._shadow(topics, "get", {})
        state, version = document.get("state") or {}, int(document.get("version") or 0)

        def half(name: str) -> Json:
            section = state.get(name)
            return {twin.SECTION: section} if isinstance(section, dict) and section else {}

        return {
            "deviceId": device,
            "etag": str(version),
            "version": version,
            "tags": {},
            "properties": {"desired": {**half("desired"), "$version": version}, "reported": half("reported")},
        }

    async def set_desired(
        self, device: str, patch: Json, module: str | None = None, *, etag: str | None = None
    ) -> Json:
        """Merge `patch` into the desired half; with `etag` (a shadow's version) ConflictError if it was changed."""
        topics = self.topics(device, module)
        checked(patch, "desired")
        unknown = sorted(patch.keys() - {twin.SECTION})
        if unknown or not isinstance(patch.get(twin.SECTION), dict):
            raise UsageError(f'the shadow {topics.prefix} holds nothing but {{"{twin.SECTION}": {{…}}}}.')
        body: Json = {"state": {"desired": patch[twin.SECTION]}}
        if etag is not None:
            body["version"] = int(etag)
        await self._shadow(topics, "update", body)
        return await self.twin(device)

    async def update_twin(self, device: str, body: Json, module: str | None = None, *, etag: str | None = None) -> Json:
        """Change the desired half; tags are refused."""
        if body.get("tags") is not None:
            raise UsageError("a thing has attributes and no tags: set them in AWS IoT's registry.")
        return await self.set_desired(device, (body.get("properties") or {}).get("desired") or {}, module, etag=etag)

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        """Refused."""
        raise UsageError("things can't be listed over MQTT: ask AWS IoT's fleet indexing.")

    async def invoke(
        self,
        device: str,
        method: str,
        payload: Any = None,
        module: str | None = None,
        *,
        response_seconds: int = 30,
        connect_seconds: int = 0,
    ) -> MethodResult:
        """Call a method; NotOnlineError if nobody answers: AWS IoT keeps no presence here."""
        topics = self.topics(device, module)
        number = secrets.token_hex(8)
        async with self.session.listening(topics.of(broker.ANSWER, number)) as heard:
            call = topics.of(broker.CALL, method, number)
            body = b"" if payload is None else broker.encode(payload)
            await self.session.client.publish(call, body, qos=0, expiry=response_seconds)
            try:
                async with asyncio.timeout(response_seconds + connect_seconds):
                    answer = _object((await heard.get()).payload)
            except TimeoutError as error:
                raise NotOnlineError(f"{device} does not answer; try again when it is online.") from error
        status = answer.get("status")
        return MethodResult(status if type(status) is int else 500, answer.get("payload"))

    async def _shadow(self, topics: broker.Topics, verb: str, body: Json) -> Json:
        root = f"$aws/things/{topics.device}/shadow/name/{topics.prefix}/{verb}"
        token = secrets.token_hex(8)
        async with self.session.listening(f"{root}/accepted", f"{root}/rejected") as heard:
            await self.session.client.publish(root, broker.encode({**body, "clientToken": token}))
            deadline = time.monotonic() + _SECONDS
            while True:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        packet = await heard.get()
                except TimeoutError as error:
                    raise UnreachableError(f"AWS IoT gives no answer in {_SECONDS:.0f} s; try again.") from error
                document = _object(packet.payload)
                if document.get("clientToken") == token:
                    break
        if packet.topic.endswith("/accepted"):
            return document
        code, said = document.get("code"), str(document.get("message", ""))[:120]
        what = f"the shadow {topics.prefix} of {topics.device}"
        if code == 404:
            raise NotFoundError(f"{what} is not there ({said}): its device never reported, and nothing was set.")
        if code == 409:
            raise ConflictError(f"{what} was changed meanwhile ({said}); read it again first.")
        if code == 413:
            raise UsageError(f"{what} would be too large ({said}); take old entries out first (null deletes).")
        if code in _LATER:
            raise UnreachableError(f"AWS IoT can't answer now ({code} {said}); try again later.")
        raise RefusedError(f"AWS IoT refuses {verb} of {what} ({code} {said}); check the policy.")


def _object(payload: bytes) -> Json:
    try:
        value = broker.decode(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
