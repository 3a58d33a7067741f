"""A stand-in for AWS IoT's shadow and job services: a client of a real Mosquitto that speaks the documented topics.

Written from docs.aws.amazon.com/iot/latest/developerguide (Device Shadow MQTT topics, Device Shadow service documents,
Device Shadow error messages, Jobs MQTT API). It knows named shadows, versions, 8 KB, deltas, and one queue of jobs for
each thing. What AWS does beside that, policies above all, it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from modelsync_protocol import twin
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.broker.address import parse
from modelsync_server.broker.session import Session, connected
from tests.support.mosquitto import Mosquitto

MAX_DOCUMENT_BYTES = 8192
Json = dict[str, Any]


@dataclass
class Shadow:
    """One named shadow."""

    desired: Json = field(default_factory=dict)
    reported: Json = field(default_factory=dict)
    version: int = 0


@dataclass
class Job:
    """One execution. `history`: what the device said of it."""

    document: Json
    status: str = "QUEUED"
    history: list[tuple[str, str]] = field(default_factory=list)


class AwsIot:
    """The services. `refuse` answers the next requests of a verb with a code."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.shadows: dict[tuple[str, str], Shadow] = {}
        self.jobs: dict[str, dict[str, Job]] = {}
        self.refuse: dict[str, list[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until cancelled."""
        async with self._session.listening(
            "$aws/things/+/shadow/name/+/get",
            "$aws/things/+/shadow/name/+/update",
            "$aws/things/+/jobs/+/get",
            "$aws/things/+/jobs/+/update",
        ) as heard:
            while True:
                await self._handle(await heard.get())

    async def desire(self, thing: str, name: str, patch: Json) -> int:
        """As UpdateThingShadow of the REST API; the new version."""
        await self._update(thing, name, {"state": {"desired": patch}})
        return self.shadows[thing, name].version

    async def add_job(self, thing: str, job: str, document: Json) -> Job:
        """As CreateJob; the thing is told if it is the next one."""
        made = self.jobs.setdefault(thing, {})[job] = Job(document)
        await self._publish(f"$aws/things/{thing}/jobs/notify-next", {"timestamp": _now(), **self._next(thing)})
        return made

    async def _handle(self, packet: mqtt.Publish) -> None:
        levels = packet.topic.split("/")
        thing, verb = levels[2], levels[-1]
        try:
            body = json.loads(packet.payload) if packet.payload else {}
            assert isinstance(body, dict)
        except (ValueError, AssertionError):
            body, verb = {}, "malformed"
        if levels[3] == "jobs":
            await self._job(thing, levels[4], verb, body)
            return
        name, token = levels[5], {"clientToken": body["clientToken"]} if "clientToken" in body else {}
        codes = self.refuse.get(verb, [])
        code = codes.pop(0) if codes else await self._shadow(thing, name, verb, body, token)
        if code:
            answer = {"code": code, "message": _MESSAGES[code], "timestamp": _now(), **token}
            await self._publish(f"{packet.topic}/rejected", answer)

    async def _shadow(self, thing: str, name: str, verb: str, body: Json, token: Json) -> int:
        if verb == "update":
            return await self._update(thing, name, body)
        if verb != "get":
            return 400
        shadow = self.shadows.get((thing, name))
        if shadow is None:
            return 404
        state = {half: value for half in ("desired", "reported") if (value := getattr(shadow, half))}
        delta = _delta(shadow.desired, shadow.reported)
        answer = {"state": {**state, **({"delta": delta} if delta else {})}, "version": shadow.version, **token}
        await self._publish(f"$aws/things/{thing}/shadow/name/{name}/get/accepted", {**answer, "timestamp": _now()})
        return 0

    async def _update(self, thing: str, name: str, body: Json) -> int:
        shadow, state = self.shadows.get((thing, name), Shadow()), body.get("state")
        if not isinstance(state, dict):
            return 400
        if "version" in body and body["version"] != shadow.version:
            return 409
        desired = twin.merge(shadow.desired, state.get("desired") or {})
        reported = twin.merge(shadow.reported, state.get("reported") or {})
        if len(json.dumps({"desired": desired, "reported": reported}, separators=(",", ":"))) > MAX_DOCUMENT_BYTES:
            return 413
        self.shadows[thing, name] = Shadow(desired, reported, shadow.version + 1)
        root = f"$aws/things/{thing}/shadow/name/{name}/update"
        token = {"clientToken": body["clientToken"]} if "clientToken" in body else {}
        stamp = {"version": shadow.version + 1, "timestamp": _now(), **token}
        await self._publish(f"{root}/accepted", {"state": state, "metadata": _metadata(state), **stamp})
        if delta := _delta(desired, reported):
            await self._publish(f"{root}/delta", {"state": delta, "metadata": _metadata(delta), **stamp})
        return 0

    async def _job(self, thing: str, job: str, verb: str, body: Json) -> None:
        root = f"$aws/things/{thing}/jobs/{job}/{verb}"
        if verb == "get" and job == "$next":
            await self._publish(f"{root}/accepted", {"timestamp": _now(), **self._next(thing)})
            return
        found = self.jobs.get(thing, {}).get(job)
        if found is None or verb != "update":
            await self._publish(f"{root}/rejected", {"code": "ResourceNotFound", "timestamp": _now()})
            return
        found.status = body["status"]
        found.history.append((body["status"], str(body.get("statusDetails", {}).get("modelsync", ""))))
        await self._publish(f"{root}/accepted", {"timestamp": _now()})
        if found.status not in ("QUEUED", "IN_PROGRESS"):
            await self._publish(f"$aws/things/{thing}/jobs/notify-next", {"timestamp": _now(), **self._next(thing)})

    def _next(self, thing: str) -> Json:
        for job, one in self.jobs.get(thing, {}).items():
            if one.status in ("QUEUED", "IN_PROGRESS"):
                return {"execution": {"jobId": job, "status": one.status, "jobDocument": one.document}}
        return {}

    async def _publish(self, topic: str, document: Json) -> None:
        await self._session.client.publish(topic, json.dumps(document, separators=(",", ":")).encode())


_MESSAGES = {
    400: "Bad Request",
    404: "No shadow exists with name",
    409: "Version conflict",
    413: "Payload too large",
} | {
    429: "Too Many Requests",
    500: "Internal service failure",
    403: "Forbidden",
}


def _delta(desired: Json, reported: Json) -> Json:
    found: Json = {}
    for key, value in desired.items():
        if isinstance(value, dict) and isinstance(reported.get(key), dict):
            if inner := _delta(value, reported[key]):
                found[key] = inner
        elif reported.get(key) != value:
            found[key] = value
    return found


def _metadata(state: Any) -> Any:
    return {key: _metadata(value) for key, value in state.items()} if isinstance(state, dict) else {"timestamp": _now()}


def _now() -> int:
    return int(time.time())


@contextlib.asynccontextmanager
async def aws_iot(served: Mosquitto) -> AsyncIterator[AwsIot]:
    """The services at a running Mosquitto."""
    async with connected(parse(served.url)) as session:
        services = AwsIot(session)
        task = asyncio.ensure_future(services.serve())
        try:
            await session.client.ping()  # the subscriptions stand
            yield services
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
