"""Metrics over TCP for scrapers that can't read the Unix socket, such as IoT Edge's metrics collector. No more."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from modelsync_protocol.errors import LocalError, UsageError

Render = Callable[[], tuple[bytes, str]]
"""The body and its content type."""


class MetricsHttp:
    """`GET /metrics` on `address` (host:port); `start` and `stop` once each. It answers anybody who reaches it."""

    def __init__(self, render: Render, address: str) -> None:
        self._render = render
        self._host, self._port = parse_address(address)
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; the port. Raises LocalError."""
        app = web.Application()
        app.add_routes([web.get("/metrics", self._answer)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            raise LocalError(
                f"metrics can't be offered on {self._host}:{self._port} ({error.strerror}); change metrics_address."
            ) from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close everything."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        body, content_type = self._render()
        return web.Response(body=body, headers={"Content-Type": content_type})


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port` (`[::]:port`); UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"metrics_address = {text!r:.60} is not of the form host:port.")
    return host.strip("[]"), int(port)
