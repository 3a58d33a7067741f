"""Gives aiohttp's connections sockets of our making, in every version of aiohttp that devices have. No requests."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable
from typing import Any

import aiohappyeyeballs
import aiohttp

SocketFactory = Callable[[tuple[Any, ...]], socket.socket]
"""Makes an unconnected socket for an entry of getaddrinfo()."""

_HAPPY_EYEBALLS_SECONDS = 0.25


def connector(factory: SocketFactory, **options: Any) -> aiohttp.TCPConnector:
    """A TCPConnector with `options` whose sockets come from `factory`."""
    if "socket_factory" in inspect.signature(aiohttp.TCPConnector).parameters:
        return aiohttp.TCPConnector(socket_factory=factory, **options)
    return OlderConnector(factory, **options)


class OlderConnector(aiohttp.TCPConnector):
    """For aiohttp before 3.12 (Debian 13 has 3.11), which takes no factory: connects itself, then goes on as before."""

    def __init__(self, factory: SocketFactory, **options: Any) -> None:
        super().__init__(**options)
        self._make_socket = factory

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: Any,
        req: Any,
        timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **options: Any,
    ) -> Any:
        try:
            async with asyncio.timeout(timeout.sock_connect):
                sock = await aiohappyeyeballs.start_connection(
                    addr_infos, happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS, socket_factory=self._make_socket
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise client_error(req.connection_key, error) from error
        existing = {**options, "sock": sock}
        return await self._wrap_existing_connection(*args, req=req, timeout=timeout, **existing)
