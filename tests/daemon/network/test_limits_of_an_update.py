"""A rule's limit on updates holds where one begins and where one is gone on with, by what it still lacks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modelsync_daemon.build.request import OverBudget, OverUpdateLimit
from modelsync_protocol.errors import UnreachableError
from tests.support.pulling import Device
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

SIZE = 6 * 1024 * 1024
STOP = 5 * 1024 * 1024


async def test_what_is_lacking_decides(tmp_path: Path) -> None:
    shop, data = await Shop.open(tmp_path), random.Random(5).randbytes(SIZE)
    await shop.publish_bytes("m", data)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(OverUpdateLimit, match="network rule lte allows 1000 an update"):
            await device.pull("m", origin.url, update_limit=1000, network="lte")
        packs = [exchange for exchange in origin.exchanges if exchange.path.startswith("packs/")]
        assert packs == [], "what the version is was asked, nothing of it"

        def cut(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
            if exchange.path.startswith("packs/"):
                answer.stop_after = max(0, STOP - sum(e.sent for e in packs_of(origin)))
            return answer

        origin.fault = cut
        with pytest.raises(UnreachableError):
            await device.pull("m", origin.url, update_limit=SIZE + 100_000, network="depot", stall_seconds=0.5)
        origin.fault = None
        sent = sum(exchange.sent for exchange in packs_of(origin))
        for limit in ({"update_limit": 1_000_000, "network": "lte"}, {"byte_limit": 1_000_000}):
            with pytest.raises((OverUpdateLimit, OverBudget)):
                await device.pull("m", origin.url, **limit)
        assert sum(exchange.sent for exchange in packs_of(origin)) == sent
        await device.pull("m", origin.url, update_limit=SIZE // 2, network="better")
        assert sum(exchange.sent for exchange in packs_of(origin)) < SIZE + 4.2 * 1024 * 1024, "at most a frame twice"
    assert device.files("m") == {"model.bin": data}


def packs_of(origin: ScriptedOrigin) -> list[Exchange]:
    """Requests for the model's bytes."""
    return [exchange for exchange in origin.exchanges if exchange.path.startswith("packs/")]
