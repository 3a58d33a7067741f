"""Reads one range of one object in order, resuming whenever the line breaks. What it brings is unverified."""

from __future__ import annotations

import re

import aiohttp

from modelsync_daemon.transfer.download import READ_BYTES, ObjectChanged, Sender, Transient, check_status, named, reason
from modelsync_daemon.transfer.memory_body import OneSource
from modelsync_protocol.errors import FormatError, UnreachableError

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class Body(OneSource):
    """Reads one range of one object in order, going on where it was whenever the line breaks."""

    def __init__(self, origin: Sender, path: str, position: int, end: int, whole: bool, etag: str) -> None:
        self.path = path
        self.position = position
        self.etag = etag
        self._origin = origin
        self._end = end
        self._whole = whole
        self._ahead = b""
        self._read_over = 0
        self._ranges = True
        self._name = named(path)
        self._response: aiohttp.ClientResponse | None = None

    async def read(self, count: int) -> bytes:
        """Return exactly the next `count` bytes. Raises ObjectMissing, ObjectChanged, FormatError, UnreachableError."""
        parts = [self._ahead[:count]] if self._ahead else []
        self._ahead = self._ahead[count:]
        missing = count - sum(map(len, parts))
        self.position += count - missing

        async def attempt() -> bytes:
            if self._response is None:
                self._response = await self._request()
            try:
                part = await self._response.content.read(min(missing, READ_BYTES))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.close()
                raise Transient(f"the download of {self._name} broke ({reason(error)}).") from error
            if not part:
                self.close()
                raise Transient(f"{self._name} ended early, after {self.position} bytes.")
            return part

        while missing:
            part = await self._origin.persist(attempt)
            parts.append(part)
            missing -= len(part)
            self.position += len(part)
            await self._origin.throttle(len(part), len(part))
        if self.position >= self._end:
            self._origin.complete()
            self._finish()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def unread(self, data: bytes) -> None:
        """Give back the last bytes that were read; they come again first."""
        self._ahead = data + self._ahead
        self.position -= len(data)

    async def skip_to(self, position: int) -> None:
        """Go forward to `position` of the object; a short gap is read, so that the request goes on."""
        if self._response is None and not self._ahead:
            self.position = position
        elif position > self.position:
            await self.read(position - self.position)

    def close(self) -> None:
        """Drop the connection in use, if any; reading goes on with a new request."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _finish(self) -> None:
        """Give the connection back for the next request, if the origin keeps to what it announced."""
        if self._response is not None and self._response.content.at_eof():
            self._response.release()
            self._response = None
        self.close()

    async def _request(self) -> aiohttp.ClientResponse:
        headers = {}
        ranged = (self.position > 0 and self._ranges) or not self._whole
        if ranged:
            headers["Range"] = f"bytes={self.position}-{'' if self._whole else self._end - 1}"
            if self.etag:
                headers["If-Range"] = self.etag
        response = await self._origin.send("GET", self.path, headers)
        try:
            await self._accept(response, ranged)
        except BaseException:
            response.close()
            raise
        return response

    async def _accept(self, response: aiohttp.ClientResponse, ranged: bool) -> None:
        if response.status == 416:
            raise FormatError(f"{self._name} is shorter on the origin than it was announced.")
        check_status(response, self.path, {200, 206} if ranged else {200})
        etag = response.headers.get("ETag", "")
        if self.etag and etag and etag != self.etag:
            raise ObjectChanged(f"{self._name} changed on the origin during its download.")
        self.etag = self.etag or etag
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not match or int(match[1]) != self.position or int(match[2]) >= self._end:
                # It would do so again, and each time what it sends is lost: only a whole object can do without.
                text, self._ranges = f"the origin answers another range of {self._name} than was asked for.", False
                raise Transient(text) if self._whole else UnreachableError(text)
            return
        length = response.content_length
        if self._whole and length is not None and length != self._end:
            raise FormatError(f"{self._name} has {length} bytes on the origin; {self._end} were announced.")
        await self._discard(response, self.position)

    async def _discard(self, response: aiohttp.ClientResponse, count: int) -> None:
        """The origin ignores ranges and sends all from the start: read over what is not wanted.

        Only what goes further than any attempt before is progress.
        """
        done = 0
        while done < count:
            part = await response.content.read(min(count - done, READ_BYTES))
            if not part:
                raise Transient(f"{self._name} ended early.")
            done += len(part)
            await self._origin.throttle(len(part), max(0, done - self._read_over))
            self._read_over = max(self._read_over, done)
