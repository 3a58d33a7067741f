"""Keeps the control plane connected: connects with jittered backoff, reads the twin, empties the outbox.

It does not interpret desired properties; it hands each twin it read to its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_daemon.control.outbox import Outbox
from modelsync_daemon.control.plane import ControlPlane, MethodCallback
from modelsync_daemon.disk.ledger import Ledger
from modelsync_daemon.timing.backoff import HUB, REFUSED, Backoff, jitter
from modelsync_daemon.timing.deadline import within
from modelsync_protocol.errors import ModelsyncError, RefusedError, UsageError

_STEADY_SECONDS = 30.0
_BURST_SECONDS = 0.2
"""Notices come in bursts: the first is followed at once, and one so soon after a reading waits for the others."""
_HOUR = 3600.0
_LINGER_SECONDS = 5.0
"""In check-in mode, how long the line stays open after the last thing happened: an operator's call may follow."""

_log = logging.getLogger(__name__)


_DONE, _ROAMED = "done", "the network is another one"


class _Roamed(ModelsyncError):
    """What was connected is dead."""


@dataclass(frozen=True, slots=True)
class CheckIn:
    """Connect only now and then: about every `every_seconds` (less a random fifth), until `busy()` is over."""

    every_seconds: float
    busy: Callable[[], bool]


class HubLink:
    """The loop around one ControlPlane. `run` it as a task; cancel to end."""

    def __init__(
        self,
        plane: ControlPlane,
        outbox: Outbox,
        ledger: Ledger,
        reconcile_seconds: float,
        network: Backoff = HUB,
        refused: Backoff = REFUSED,
        check_in: CheckIn | None = None,
        first_pause: float = 0.0,
        noticed: Callable[[], None] = lambda: None,
    ) -> None:
        """`noticed` is called with each notice of a change, before the twin is read for it."""
        self._noticed = noticed
        self._plane, self._outbox, self._ledger = plane, outbox, ledger
        self._reconcile_seconds, self._network, self._refused = reconcile_seconds, network, refused
        self._check_in, self._first_pause = check_in, first_pause
        self._wake = asyncio.Event()
        self._read_due = False
        self._read_at = -math.inf
        self._here: asyncio.Timeout | None = None
        self._seen: int | None = None
        self._hinted = 0
        self._counted = (0, 0)
        self._on_twin: Callable[[Mapping[str, Any]], None] = lambda desired: None

    @property
    def connected(self) -> bool:
        """Whether the hub can be reached as far as is known."""
        return self._plane.connected

    @property
    def reported_limit(self) -> int:
        """The most that the reported half may have now, bytes."""
        return self._plane.reported_limit

    def read_soon(self) -> None:
        """Read the twin now, or at once after the next connect."""
        self._read_due = True
        self._wake.set()

    def send_soon(self) -> None:
        """The outbox may have something to send."""
        self._wake.set()

    def roamed(self) -> None:
        """This device speaks from another address now: the connection is dead, and nobody else will say so for long."""
        if self._here is not None:
            self._here.reschedule(_now())

    async def run(self, on_twin: Callable[[Mapping[str, Any]], None], on_method: MethodCallback) -> None:
        """Connect, stay, reconnect, for ever. `on_twin` gets the desired half of each twin that was read."""
        self._on_twin = on_twin
        self._plane.listen(self._on_hint, on_method)
        attempts = 0
        with contextlib.suppress(TimeoutError):
            await within(self._first_pause, self._sync_asked())
        try:
            while True:
                begin = math.inf  # an attempt may take long, too, and is no steady connection
                backoff, reason = self._network, ""
                try:
                    async with self._until_roamed():
                        await self._plane.connect()
                        await self._read()
                        begin = _now()
                        self.count()
                        self._ledger.flush()
                        reason = await self._stay()
                except _Roamed as error:
                    reason = str(error)
                    await self._plane.close()
                except (RefusedError, UsageError) as error:
                    backoff, reason = self._refused, str(error)
                except ModelsyncError as error:
                    reason = str(error)
                self.count()
                if reason == _DONE and self._check_in is not None:
                    attempts = 0
                    await self._plane.close()
                    self.count()
                    self._ledger.flush()
                    with contextlib.suppress(TimeoutError):
                        await within(jitter(self._check_in.every_seconds), self._sync_asked())
                    continue
                attempts = 1 if _now() - begin > _STEADY_SECONDS else attempts + 1
                wait = backoff.seconds(attempts)
                if reason == _ROAMED and attempts == 1:
                    wait = 0.0
                _log.warning("hub: %s (next attempt in %.0f s)", reason, wait)
                with contextlib.suppress(TimeoutError):
                    await within(wait, self._sync_asked())
        finally:
            await self._plane.close()
            self.count()

    @contextlib.asynccontextmanager
    async def _until_roamed(self) -> AsyncIterator[None]:
        """End what is awaited inside with _Roamed when the network is another one."""
        try:
            async with asyncio.timeout(None) as self._here:
                yield
        except TimeoutError:
            if self._here is None or not self._here.expired():
                raise
            raise _Roamed(_ROAMED) from None
        finally:
            self._here = None

    async def _sync_asked(self) -> None:
        while not self._read_due:
            self._wake.clear()
            await self._wake.wait()

    async def _stay(self) -> str:
        """Serve the connection until it is lost; returns why."""
        lost = asyncio.ensure_future(self._plane.wait_lost())
        lost.add_done_callback(lambda _: self._wake.set())
        due = _now() + jitter(self._reconcile_seconds)
        leave = _now() + _LINGER_SECONDS
        try:
            while not lost.done():
                if self._wake.is_set() or (self._check_in is not None and self._check_in.busy()):
                    leave = _now() + _LINGER_SECONDS
                elif self._check_in is not None and _now() >= leave:
                    return _DONE
                self._wake.clear()
                await self._send()
                if self._read_due or _now() >= due:
                    await self._read()
                    due = _now() + jitter(self._reconcile_seconds)
                self.count()
                if not self._wake.is_set():
                    look = due if self._check_in is None else min(due, leave)
                    with contextlib.suppress(TimeoutError):
                        await within(max(0.05, min(_HOUR, look - _now())), self._wake.wait())
                if self._read_due:
                    await asyncio.sleep(max(0.0, self._read_at + _BURST_SECONDS - _now()))
            return lost.result()
        finally:
            lost.cancel()

    async def _read(self) -> None:
        self._read_due = False
        self._read_at = _now()
        twin = await self._plane.read_twin()
        version = twin.desired.get("$version")
        self._seen = version if type(version) is int else None
        # A notice may overtake the answer that does not hold it yet; one more reading settles that.
        self._read_due = self._read_due or (self._seen is not None and self._hinted > self._seen)
        self._hinted = 0
        self._outbox.seen(twin.reported)
        self._on_twin(twin.desired)
        self._wake.set()

    async def _send(self) -> None:
        patch = self._outbox.patch()
        if patch:
            await self._plane.patch_reported(patch)
            self._outbox.delivered(patch)

    def _on_hint(self, version: int | None) -> None:
        self._hinted = max(self._hinted, version or 0)
        if version is None or self._seen is None or version > self._seen:
            self._noticed()
            self.read_soon()

    def count(self) -> None:
        """Tell the ledger what the connection carried since the last call."""
        received, sent = self._plane.wire()
        self._ledger.add(received - self._counted[0], sent - self._counted[1])
        self._counted = (received, sent)


def _now() -> float:
    return asyncio.get_running_loop().time()
