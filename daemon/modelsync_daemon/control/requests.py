"""Requests over MQTT that are answered by a message with the same token: waits of them, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Generic, TypeVar

from modelsync_protocol.errors import UnreachableError

_Answer = TypeVar("_Answer")


class Requests(Generic[_Answer]):
    """Those that are under way, on one connection after the other: tokens don't come again."""

    def __init__(self, seconds: float, what: str) -> None:
        """`seconds`: the longest wait; `what` is asked: "the hub"."""
        self._seconds, self._what = seconds, what
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}
        # What an earlier run asked may be answered now: a session outlives both.
        self._last = secrets.randbelow(10_000)

    def begin(self) -> tuple[str, asyncio.Future[_Answer]]:
        """A token (short: it is paid for twice), and what will be its answer."""
        self._waiting = {token: waiting for token, waiting in self._waiting.items() if not waiting.done()}
        self._last += 1
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting[str(self._last)] = answer
        return str(self._last), answer

    def answered(self, token: str, answer: _Answer) -> bool:
        """An answer came; False if nobody waits for it."""
        waiting = self._waiting.pop(token, None)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(answer)
        return True

    async def wait(self, answer: asyncio.Future[_Answer], lost: asyncio.Future[str]) -> _Answer:
        """The answer; UnreachableError if the line is lost before, or none comes."""
        try:
            async with asyncio.timeout(self._seconds):
                ends: set[asyncio.Future[Any]] = {answer, lost}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            answer.cancel()
            raise UnreachableError(f"{self._what} gives no answer in {self._seconds:.0f} s.") from error
        if not answer.done():
            answer.cancel()
            raise UnreachableError(f"the connection to {self._what} is lost: {lost.result()}.")
        return answer.result()
