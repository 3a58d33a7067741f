"""Who of the applications was told which generation, durably: whoever was not is told until it worked.

Pointers are the authority. An application that is configured owes an answer to the generation that its pointer names; a
rollback that it refused, a `pull` without a daemon and a power cut all are that one case.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from modelsync_daemon.activate.consumer import Consumer, NotServing
from modelsync_daemon.activate.inference_processes import Event, Unready
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer
from modelsync_daemon.timing.backoff import NETWORK, Backoff

TELLING, LOADED, FAILED = "telling", "loaded", "failed"
"""What became of the last time that an application was told."""

Choose = Callable[[str], Consumer | None]
"""The application to tell of that model's versions, if there is one."""

_log = logging.getLogger(__name__)


class Telling:
    """All models' applications. The caller makes one call a model at a time."""

    def __init__(
        self, data: DataDir, database: Database, choose: Choose = lambda name: None, backoff: Backoff = NETWORK
    ) -> None:
        """`backoff` spaces the attempts with one that has to be told again."""
        self._data, self._database, self._choose, self._backoff = data, database, choose, backoff
        self._loading: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether there is somebody to tell."""
        return self._choose(name) is not None

    def busy(self, name: str) -> bool:
        """Whether it is loading now: that takes no longer than its settings say, and is better not cut short."""
        return name in self._loading

    async def examine(self, pointer: Pointer) -> None:
        """Ask whether it would take the candidate; raises NotServing."""
        consumer = self._choose(pointer.name)
        if consumer is not None:
            await consumer.examine(pointer)

    async def load(self, pointer: Pointer) -> None:
        """Tell it to load what `pointer` names; what came of it is kept. Raises NotServing."""
        consumer = self._choose(pointer.name)
        if consumer is None:
            return
        before, attempts = self._failed(pointer)
        attempts += 1
        self._keep(pointer, TELLING, before, attempts)
        self._loading.add(pointer.name)
        try:
            await consumer.load(pointer)
        except NotServing as error:
            retry_at = int(self._database.clock() + self._backoff.seconds(attempts)) + 1
            self._keep(pointer, FAILED, str(error), attempts, retry_at)
            raise
        finally:
            self._loading.discard(pointer.name)
        self._keep(pointer, LOADED)

    async def settle(self, name: str) -> bool:
        """Tell what the pointer names to whoever was not told; False if that failed and is to be tried again."""
        pointer = self.owed(name)
        if pointer is None:
            return True
        try:
            await self.load(pointer)
        except NotServing as error:
            _, attempts = self._failed(pointer)
            _log.error(
                "%s: version %d is to serve, and its application did not load it (attempt %d): %s",
                name, pointer.version, attempts, error,
            )  # fmt: skip
            return False
        return True

    def owed(self, name: str) -> Pointer | None:
        """The pointer that the application is still to be told of; None: it was, there is none, or it is refused."""
        if not self.has(name):
            return None
        pointer = self._data.read_pointer(name)
        if pointer is None or pointer.digest in self._database.quarantined(name):
            return None
        told = read(self._database, name) or {}
        done = told.get("result") == LOADED and told.get("generation") == pointer.generation
        return None if done and told.get("digest") == pointer.digest else pointer

    def retry_at(self, name: str) -> float:
        """When one that failed is to be told again, seconds since the epoch; 0: now."""
        told = read(self._database, name) or {}
        return float(told.get("retry_at") or 0) if told.get("result") == FAILED else 0.0

    def hurry(self, name: str) -> None:
        """Let one that failed be told again now."""
        told = read(self._database, name)
        if told is not None and told.get("retry_at"):
            self._database.remember(_key(name), json.dumps({**told, "retry_at": 0}))

    @contextlib.asynccontextmanager
    async def watched(self, pointer: Pointer, tell: Callable[[Event], None]) -> AsyncIterator[None]:
        """Look at it as long as the context lasts, and tell when it is not ready any more."""
        consumer = self._choose(pointer.name)
        if consumer is None:
            yield
            return

        async def watch(consumer: Consumer) -> None:
            tell(Unready(await consumer.watch(pointer)))

        task = asyncio.ensure_future(watch(consumer))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _failed(self, pointer: Pointer) -> tuple[str, int]:
        """Why it did not load this generation the last time, if it did not, and how often it was told."""
        told = read(self._database, pointer.name) or {}
        same = told.get("generation") == pointer.generation
        return (str(told.get("text") or ""), int(told.get("attempts") or 0)) if same else ("", 0)

    def _keep(self, pointer: Pointer, result: str, text: str = "", attempts: int = 0, retry_at: int = 0) -> None:
        document = {
            "result": result,
            "version": pointer.version,
            "digest": pointer.digest,
            "generation": pointer.generation,
            "since": int(self._database.clock()),
            "text": text,
            "attempts": attempts,
            "retry_at": retry_at,
        }
        self._database.remember(_key(pointer.name), json.dumps(document))


def read(database: Database, name: str) -> Mapping[str, Any] | None:
    """What is kept of `name`'s application: `result`, of which `version` and `generation`, `since` when (seconds since
    the epoch), `text` why not, after how many `attempts`, `retry_at` when again; None if there is nothing."""
    text = database.document(_key(name))
    document = json.loads(text) if text else None
    return document if isinstance(document, dict) else None


def forget(database: Database, name: str) -> None:
    """There is nobody to tell (any more)."""
    if database.document(_key(name)):
        database.remember(_key(name), "")


def _key(name: str) -> str:
    return f"consumer:{name}"
