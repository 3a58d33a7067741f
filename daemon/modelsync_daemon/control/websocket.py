"""MQTT over WebSockets (OASIS MQTT 5, clause 6): aiohttp's client as a Stream. Imported only where it is configured."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

import aiohttp

from modelsync_daemon.control.reasons import reason
from modelsync_protocol.errors import UnreachableError
from modelsync_protocol.mqtt.codec import MAX_PACKET_BYTES

_CLOSE_SECONDS = 1.0


class WebStream:
    """One WebSocket whose binary messages, in any slices, are MQTT's bytes."""

    def __init__(self, session: aiohttp.ClientSession, web: aiohttp.ClientWebSocketResponse) -> None:
        self._session, self._web = session, web
        self._unsent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sender = asyncio.ensure_future(self._send())

    @property
    def socket(self) -> Any:
        """The socket underneath."""
        return self._web.get_extra_info("socket")

    async def read(self) -> bytes:
        while True:
            message = await self._web.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                if message.data:
                    return bytes(message.data)
            elif message.type is aiohttp.WSMsgType.ERROR:
                raise OSError(str(message.data))
            elif message.type is not aiohttp.WSMsgType.TEXT:
                return b""

    def write(self, data: bytes) -> None:
        self._unsent.put_nowait(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        self._unsent.put_nowait(None)

    async def _send(self) -> None:
        with contextlib.suppress(Exception):  # a line that breaks is told by `read`
            while (data := await self._unsent.get()) is not None:
                await self._web.send_bytes(data)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._web.close()
        await self._session.close()


async def open_websocket(
    host: str, port: int, path: str, context: ssl.SSLContext | None, proxy: str | None
) -> WebStream:
    """Open one. Raises OSError, UnreachableError."""
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
    shown = f"[{host}]" if ":" in host else host
    url = f"{'ws' if context is None else 'wss'}://{shown}:{port}{path}"
    try:
        web = await session.ws_connect(
            url, protocols=("mqtt",), ssl=context or True, proxy=proxy, max_msg_size=MAX_PACKET_BYTES, autoping=True
        )
    except aiohttp.WSServerHandshakeError as error:
        await session.close()
        raise UnreachableError(
            f"{host}:{port} speaks no MQTT over WebSockets at {path} (it answers {error.status})."
        ) from error
    except aiohttp.ClientError as error:
        await session.close()
        if isinstance(error, OSError):
            raise
        raise OSError(reason(error)) from error
    except BaseException:
        await session.close()
        raise
    return WebStream(session, web)
