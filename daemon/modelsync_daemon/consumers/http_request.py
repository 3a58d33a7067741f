"""One HTTP request to an application of this machine, and what its answer has to be. It follows no redirects."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from modelsync_daemon.activate.consumer import NotServing, NotThere
from modelsync_daemon.consumers.templates import Values, filled

_MAX_ANSWER_BYTES = 64 * 1024
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`url`, `headers`, `body` and `json` (sent as JSON) have places. The answer has one of `status` (none: 200 to
    299), `contains` in it, and as JSON what `expect` says: dotted keys and texts. `unix`: a socket's path."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] | None = None
    body: str | None = None
    json: Any = None
    status: tuple[int, ...] = ()
    contains: str | None = None
    expect: Mapping[str, str] | None = None
    unix: Path | None = None

    @property
    def shown(self) -> str:
        """What people are told of it: no query and no header, which may be secret."""
        parts = urlsplit(self.url)
        where = f" over {self.unix}" if self.unix else ""
        return f"{self.method} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{where}"

    async def send(self, values: Values, seconds: float) -> None:
        """Send it and judge the answer, within `seconds`. Raises NotServing."""
        try:
            async with asyncio.timeout(seconds):
                status, answer = await self._ask(values)
        except TimeoutError:
            raise NotServing(f"{self.shown} was not answered within {seconds:.3g} s.") from None
        except aiohttp.ClientConnectorError as error:
            raise NotThere(f"{self.shown} failed: {error.strerror or error}.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NotServing(f"{self.shown} failed: {reason}.") from error
        said = " ".join(answer.split())[:_SHOWN]
        if status not in self.status if self.status else not 200 <= status <= 299:
            raise NotServing(f"{self.shown} was answered with {status}{f': {said}' if said else '.'}")
        self._judge(answer, said, values)

    @property
    def address(self) -> str:
        """Where it goes: host:port, or a socket's path."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return str(self.unix) if self.unix else f"{parts.hostname}:{port}"

    async def _ask(self, values: Values) -> tuple[int, str]:
        connector = (
            aiohttp.UnixConnector(path=str(self.unix)) if self.unix else aiohttp.TCPConnector(ssl=self._context())
        )
        body = None if self.body is None else filled(self.body, values).encode()
        headers = dict(filled(self.headers or {}, values))
        if self.json is not None:
            body = json.dumps(filled(self.json, values)).encode()
            headers.setdefault("Content-Type", "application/json")
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.request(
                self.method,
                filled(self.url, values, lambda text: quote(text, safe="")),
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as response,
        ):
            answer = b""
            async for part in response.content.iter_chunked(8192):
                answer += part
                if len(answer) >= _MAX_ANSWER_BYTES:
                    break
            return response.status, answer[:_MAX_ANSWER_BYTES].decode("utf-8", "replace")

    def _context(self) -> ssl.SSLContext | bool:
        """The system's certificates, where the application speaks TLS: aiohttp's own are not loaded here."""
        return ssl.create_default_context() if urlsplit(self.url).scheme == "https" else True

    def _judge(self, answer: str, said: str, values: Values) -> None:
        if self.contains is not None and (wanted := filled(self.contains, values)) not in answer:
            raise NotServing(f"{self.shown} was answered without {wanted!r}: {said or 'nothing'}")
        if not self.expect:
            return
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            raise NotServing(f"{self.shown} was not answered with JSON: {said or 'nothing'}") from None
        for key, text in self.expect.items():
            found, wanted = _of(document, key), filled(text, values)
            if found != wanted:
                raise NotServing(f"{self.shown} says {key} = {found}, and not {wanted}.")


def _of(document: Any, dotted: str) -> str:
    for key in dotted.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, str) else json.dumps(document)
