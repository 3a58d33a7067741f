"""Metrics over TCP, as IoT Edge's metrics collector reads them."""

from __future__ import annotations

import socket
from pathlib import Path

import aiohttp
import pytest

from modelsync_daemon.local.metrics_http import MetricsHttp, parse_address
from modelsync_protocol.errors import LocalError, UsageError
from tests.support.azure_world import cloud
from tests.support.shop import Shop


async def test_the_daemon_offers_its_metrics_over_tcp(tmp_path: Path, worker_id: str) -> None:
    shop = await Shop.open(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with cloud(tmp_path, worker_id) as made:
        text = f'connection_string = "{made.hub.add_device("pi")}"'
        await made.start(shop.trust, text, f'metrics_address = "127.0.0.1:{port}"')
        await made.until(lambda: "modelsync" in made.hub.reported("pi"), "a report")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                assert answer.status == 200 and "modelsync_hub_connected 1.0" in await answer.text()
            async with session.get(f"http://127.0.0.1:{port}/v1/status") as answer:
                assert answer.status == 404, "nothing but metrics"


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LocalError, match="metrics_address"):
            await MetricsHttp(lambda: (b"", "text/plain"), f"127.0.0.1:{taken.getsockname()[1]}").start()


@pytest.mark.parametrize("text", ["9600", ":9600", "host:", "host:70000", "host:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_ipv6_addresses_are_taken() -> None:
    assert parse_address("[::]:9600") == ("::", 9600)
