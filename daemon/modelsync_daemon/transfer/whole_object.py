"""Reads one small object whole, going on where it was if the line breaks. What it brings is unverified."""

from __future__ import annotations

import re

import aiohttp

from modelsync_daemon.transfer.download import READ_BYTES, Sender, Transient, check_status, named
from modelsync_protocol.errors import RefusedError

_FIRST = re.compile(r"bytes (\d{1,19})-\d+/(?:\d+|\*)")


class Whole:
    """An object of at most `limit` bytes; `attempt` until it returns."""

    def __init__(self, origin: Sender, path: str, limit: int) -> None:
        self._origin, self._path, self._limit = origin, path, limit
        self._data = bytearray()
        self._etag = ""
        self._most = 0

    async def attempt(self) -> bytes:
        """Read all, or the rest. Raises Transient, ObjectMissing, or RefusedError if it is longer than allowed."""
        headers = {}
        if self._data and self._etag:
            headers = {"Range": f"bytes={len(self._data)}-", "If-Range": self._etag}
        async with await self._origin.send("GET", self._path, headers) as response:
            self._begin(response, bool(headers))
            announced = response.content_length
            came = 0
            async for part in response.content.iter_chunked(READ_BYTES):
                came += len(part)
                self._data += part
                if len(self._data) > self._limit:
                    raise RefusedError(f"{named(self._path)} is longer than the {self._limit} bytes allowed for it.")
                await self._origin.throttle(len(part), max(0, len(self._data) - self._most))
                self._most = max(self._most, len(self._data))
            if announced is not None and announced != came:
                raise Transient(f"{named(self._path)} ended after {came} of {announced} bytes.")
            return bytes(self._data)

    def _begin(self, response: aiohttp.ClientResponse, ranged: bool) -> None:
        if ranged and response.status == 206:
            first = _FIRST.fullmatch(response.headers.get("Content-Range", ""))
            if first and int(first[1]) == len(self._data) and response.headers.get("ETag", self._etag) == self._etag:
                return
        self._data.clear()
        tag = response.headers.get("ETag", "")
        self._etag = "" if tag.startswith("W/") else tag
        if ranged and response.status in (206, 416):
            self._etag = ""
            raise Transient(f"{named(self._path)} can't be gone on with, so it is read anew.")
        check_status(response, self._path, {200})
