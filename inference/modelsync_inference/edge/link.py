"""The module's connection to edgeHub over azure-iot-device: messages in, messages out, connected anew when it is lost.

Every connection is a new client: the SDK never subscribes again after a lost session, and does not repeat a first
connect. The handler is set before the connection exists: the SDK acknowledges and throws away what arrives without one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from azure.iot.device import Message
from azure.iot.device.aio import IoTHubModuleClient

from modelsync_inference.edge.messages import Incoming, Outgoing
from modelsync_inference.edge.options import EdgeIdentity

_CALL_SECONDS = 60.0
_STEADY_SECONDS = 10.0
"""A connection that lasted so long ends the backing off."""
_BASE_SECONDS, _CAP_SECONDS = 0.5, 60.0
_TOKEN_SECONDS = 86400
_KEEP_ALIVE_SECONDS = 60
_CLOSE_SECONDS = 2.0

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class EdgeLink:
    """One module's line to edgeHub. All methods belong to one asyncio loop; `on_message` is called on it, in order."""

    def __init__(self, identity: EdgeIdentity, on_message: Callable[[Incoming], None]) -> None:
        """Nothing is connected before `run`."""
        for name in ("azure", "paho"):  # the SDK logs tracebacks for every dropped line
            logging.getLogger(name).addHandler(logging.NullHandler())
            logging.getLogger(name).propagate = False
        self._identity, self._on_message = identity, on_message
        self._client: Any = None
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether messages can come and go."""
        return self._up.is_set()

    async def run(self) -> None:
        """Connect, and connect anew whenever the line is lost, until cancelled."""
        loop, failures, said = asyncio.get_running_loop(), 0, ""
        while True:
            began = None
            try:
                await self._connect()
                _log.info("connected to the hub.")
                began, said = loop.time(), ""
                self._up.set()
                await self._lost.wait()
                reason = "the connection to the hub was lost"
            except Exception as error:  # the SDK's own vocabulary is wide, and some of it undocumented
                reason = f"the hub can't be reached ({_words(error)})"
            finally:
                self._up.clear()
                self._drop_client()
            steady = began is not None and loop.time() - began > _STEADY_SECONDS
            failures = 0 if steady else failures + 1
            if reason != said:
                _log.warning("%s; trying again.", reason)
                said = reason
            longest = min(_CAP_SECONDS, _BASE_SECONDS * 2.0 ** min(failures, 20))
            await asyncio.sleep(random.uniform(0, longest))

    async def send(self, message: Outgoing) -> None:
        """Return once edgeHub has acknowledged `message`, however many connections that takes.

        Raises ValueError if it is longer than the hub takes. A message whose acknowledgement was lost goes twice, with
        the same message id.
        """
        while True:
            await self._up.wait()
            client, lost = self._client, self._lost
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await client.send_message_to_output(_sdk_message(message), message.output)
                return
            except ValueError:
                raise
            except Exception as error:
                _log.info("an answer is sent again on a new connection (%s).", _words(error))
                if lost is self._lost:  # else a new connection stands already
                    self._up.clear()
                lost.set()

    async def stop_receiving(self) -> None:
        """Unsubscribe: what comes from now on waits in edgeHub. What has come already is handed over before."""
        disable = getattr(self._client, "_disable_feature", None)  # the public way would lose what comes meanwhile
        if disable is not None and self._up.is_set():
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await disable("input")
                # Two hops lie between the SDK's inbox and `on_message`.
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Disconnect; takes at most a few seconds and never raises."""
        self._drop_client()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_SECONDS + 1)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._lost = lost = asyncio.Event()
        async with asyncio.timeout(_CALL_SECONDS):
            client = self._client = await _in_thread(self._build)

            def changed() -> None:  # on a thread of the SDK
                if not client.connected:
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(lost.set)

            async def arrived(message: Any) -> None:  # on a loop of the SDK; a coroutine, so that the order is kept
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._on_message, _incoming(message))

            client.on_connection_state_change = changed
            client.on_background_exception = lambda error: _log.info("hub client: %s", _words(error))
            # Connects (auto_connect), and blocks until the hub's SUBACK: never on this loop.
            await _in_thread(setattr, client, "on_message_received", arrived)

    def _build(self) -> Any:
        options: dict[str, Any] = {
            "connection_retry": False,
            "ensure_desired_properties": False,
            "keep_alive": _KEEP_ALIVE_SECONDS,
            "sastoken_ttl": _TOKEN_SECONDS,
        }
        if self._identity.connection_string is None:
            return IoTHubModuleClient.create_from_edge_environment(**options)
        if self._identity.ca is not None:
            options["server_verification_cert"] = self._identity.ca
        return IoTHubModuleClient.create_from_connection_string(self._identity.connection_string, **options)

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            task = asyncio.create_task(_shut_down(client))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _shut_down(client: Any) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.shutdown()


def _sdk_message(message: Outgoing) -> Any:
    kind: Any = Message
    made = kind(message.body, message_id=message.message_id, content_encoding="utf-8", content_type="application/json")
    made.correlation_id = message.correlation_id
    made.custom_properties.update(message.properties)
    return made


def _incoming(message: Any) -> Incoming:
    """Properties that begin with `$.` are the hub's own (the sender's ids): an answer must not repeat them."""
    properties = {name: value or "" for name, value in message.custom_properties.items() if not name.startswith("$")}
    body = message.data if isinstance(message.data, bytes) else str(message.data).encode()
    return Incoming(body, message.input_name or "", message.message_id, message.correlation_id, properties)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {_CALL_SECONDS:.0f} s"
    return str(error.__cause__ or error).rstrip(".") or type(error).__name__


async def _in_thread(call: Callable[..., _Result], *arguments: Any) -> _Result:
    """As asyncio.to_thread, on a daemon thread: one that hangs must not keep the process from ending."""
    future: concurrent.futures.Future[_Result] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = call(*arguments)
        except BaseException as error:  # handed to the awaiting side
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="edge-sdk", daemon=True).start()
    waiting: Awaitable[_Result] = asyncio.wrap_future(future)
    return await waiting
