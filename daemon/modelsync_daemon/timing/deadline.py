"""Waiting with a limit that never loses a cancellation. No I/O here.

`asyncio.wait_for` of Python 3.11 swallows a cancellation that coincides with the result (cpython #86296), which would
keep the daemon from stopping; `asyncio.timeout` does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")


async def within(seconds: float | None, awaitable: Awaitable[_Result]) -> _Result:
    """Await for at most `seconds` (None: for ever); raises TimeoutError."""
    async with asyncio.timeout(seconds):
        return await awaitable
