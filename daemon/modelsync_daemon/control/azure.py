"""The control plane over azure-iot-device: device or Edge module identity. It survives that SDK's known traps.

Every `connect` builds a fresh client: a client whose session was lost hangs for ever, and its own reconnecting has
neither jitter nor an end to its pauses. Twin notices are hints only, since the SDK delivers full documents as patches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from azure.iot.device import MethodRequest, MethodResponse, exceptions

from modelsync_daemon.config import Settings
from modelsync_daemon.control import identity
from modelsync_daemon.control.azure_internals import SocketCounter, stop_token_alarm
from modelsync_daemon.control.plane import HintCallback, MethodAnswer, MethodCallback, Twin
from modelsync_daemon.control.reasons import reason
from modelsync_daemon.timing.backoff import jitter
from modelsync_daemon.timing.deadline import within
from modelsync_protocol import caps
from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError

CALL_SECONDS = 60.0
EDGE_CALL_SECONDS = 150.0
"""The longest wait for an answer, after which the client is built anew; edgeHub may take more than a minute."""

GRACE_SECONDS = 10.0
"""How long a connection may be down before it counts as lost: renewing the token reconnects."""

TOKEN_SHARE = 0.9
"""After this share of a token's lifetime, less a random fifth, the connection is built anew."""

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class AzureControlPlane:
    """A ControlPlane for one device or module. All methods belong to one asyncio loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        call_seconds: float | None = None,
        grace_seconds: float = GRACE_SECONDS,
        token_share: float = TOKEN_SHARE,
    ) -> None:
        """Settings name the identity. The limits are for tests; nothing is read or connected before `connect`."""
        self._settings, self._grace_seconds, self._token_share = settings, grace_seconds, token_share
        self._call_seconds = call_seconds or (EDGE_CALL_SECONDS if settings.edge else CALL_SECONDS)
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hint: HintCallback = lambda version: None
        self._method: MethodCallback | None = None
        self._lost = asyncio.Event()
        self._first: Twin | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._counter = SocketCounter()
        for name in ("azure", "paho"):  # the SDK logs tracebacks for every dropped line
            logging.getLogger(name).addHandler(logging.NullHandler())
            logging.getLogger(name).propagate = False

    @property
    def connected(self) -> bool:
        """Whether the SDK holds a connection and no call has failed since."""
        return self._client is not None and bool(self._client.connected) and not self._lost.is_set()

    @property
    def reported_limit(self) -> int:
        """Bytes of the reported half."""
        return caps.MAX_TWIN_BYTES

    def listen(self, on_hint: HintCallback, on_method: MethodCallback) -> None:
        """Set the callbacks, once, before `connect`."""
        self._hint, self._method = on_hint, on_method

    async def connect(self) -> None:
        """Build a client, connect it, read the twin, then subscribe: the SDK wants this order.

        Raises UsageError if the connection string can't be used.
        """
        await self.close()
        self._loop = asyncio.get_running_loop()
        self._lost = lost = asyncio.Event()
        assignment = None
        if self._settings.dps_scope:
            assignment = await self._call("get a hub assigned:", identity.provision(self._settings, self._counter))
        client = await self._call("reach", _in_thread(identity.build_client, self._settings, assignment))
        self._client = client
        self._counter.attach(client)
        try:
            await self._call("connect", client.connect())
            self._subscribe_events(client, lost)
            if stop_token_alarm(client):
                self._renewal = self._loop.call_later(self._token_use(), lost.set)
            for attribute, handler in (
                ("on_twin_desired_properties_patch_received", self._on_patch),
                ("on_method_request_received", self._on_request),
            ):
                # The setter blocks until the hub's SUBACK: never on this loop.
                await self._call("subscribe at", _in_thread(setattr, client, attribute, handler))
            # Only now: what changes after this reading is told, and what changed before is in it.
            self._first = _twin(await self._call("read its twin from", client.get_twin()))
        except ModelsyncError as error:
            if assignment is not None and isinstance(error, RefusedError):
                identity.forget_assignment(self._settings)
            await self.close()
            raise

    async def read_twin(self) -> Twin:
        """Read the twin; the first call after `connect` returns what that read."""
        first, self._first = self._first, None
        if first is not None:
            return first
        return _twin(await self._call("read its twin from", self._connected().get_twin()))

    async def patch_reported(self, patch: Mapping[str, Any]) -> None:
        """Merge `patch` into the reported half."""
        await self._call("report to", self._connected().patch_twin_reported_properties(dict(patch)))

    async def wait_lost(self) -> str:
        """Return when the connection is lost for longer than a token renewal takes, or its token nears its end."""
        lost = self._lost
        await lost.wait()
        if self._client is not None and self._client.connected:
            return "the connection to the hub is built anew."
        return "the connection to the hub was lost."

    def wire(self) -> tuple[int, int]:
        """Bytes received and sent since this object was made."""
        return self._counter.total()

    async def close(self) -> None:
        """Shut the client down; what hangs is left to its own daemon threads."""
        client, self._client, self._first = self._client, None, None
        self._lost.set()
        if self._renewal is not None:
            self._renewal.cancel()
        if client is not None:
            with contextlib.suppress(Exception):
                await within(2.0, client.shutdown())

    def _token_use(self) -> float:
        """How long a token is used: devices that connected together must not come back together."""
        return jitter(self._settings.token_seconds * self._token_share)

    def _connected(self) -> Any:
        if self._client is None or self._lost.is_set():
            raise UnreachableError("there is no connection to the hub; it is being tried again.")
        return self._client

    async def _call(self, what: str, call: Awaitable[_Result]) -> _Result:
        """Await an SDK call with a limit, in our errors' words; any failure makes the client count as lost."""
        try:
            return await within(self._call_seconds, call)
        except ModelsyncError:
            raise
        except exceptions.CredentialError as error:
            self._lost.set()
            raise RefusedError(
                "the hub refuses this device's credentials; check its connection string or certificate."
            ) from error
        except (TimeoutError, asyncio.CancelledError) as error:
            self._lost.set()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise UnreachableError(f"could not {what} the hub: no answer in {self._call_seconds:.0f} s.") from error
        except Exception as error:  # the SDK's own vocabulary is wide, and some of it undocumented
            self._lost.set()
            raise UnreachableError(f"could not {what} the hub: {reason(error)}") from error

    def _subscribe_events(self, client: Any, lost: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def check() -> None:
            if not client.connected:
                lost.set()

        def changed() -> None:  # runs on a thread of the SDK
            if not client.connected:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(loop.call_later, self._grace_seconds, check)

        client.on_connection_state_change = changed
        client.on_background_exception = lambda error: _log.info("hub client: %s", error)

    def _on_patch(self, patch: Mapping[str, Any]) -> None:  # runs on a thread of the SDK
        version = patch.get("$version")
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hint, version if type(version) is int else None)

    async def _on_request(self, request: MethodRequest) -> None:  # runs on a loop of the SDK
        client, loop, method = self._client, self._loop, self._method
        if client is None or loop is None or method is None:
            return

        async def answer() -> MethodAnswer:
            return await method(request.name, request.payload)

        reply = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answer(), loop))
        response = MethodResponse.create_from_method_request(request, reply.status, dict(reply.payload))
        with contextlib.suppress(Exception):  # the line may be gone; the caller sees a timeout
            await client.send_method_response(response)


def _twin(document: Any) -> Twin:
    return Twin(desired=document.get("desired", {}), reported=document.get("reported", {}))


async def _in_thread(call: Callable[..., _Result], *arguments: Any) -> _Result:
    """As asyncio.to_thread, on a daemon thread: one that hangs must not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def finish(settle: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            settle(value)

    def run() -> None:
        settle: Callable[[Any], None] = done.set_result
        value: Any
        try:
            value = call(*arguments)
        except Exception as error:  # handed to the awaiting side
            settle, value = done.set_exception, error
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, settle, value)

    threading.Thread(target=run, name="hub-sdk", daemon=True).start()
    return await done
