"""An origin's cookies are nobody's: not kept, not sent again on a line that costs money (CVE-2026-128125's kind)."""

from __future__ import annotations

from pathlib import Path

from tests.support.pulling import Device
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop


async def test_no_cookie_goes_back_to_the_origin(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", bytes(range(256)) * 2000)
    device = Device(tmp_path / "device", shop.trust)

    def setting(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
        answer.headers["Set-Cookie"] = "tracked=" + "x" * 3000
        return answer

    async with ScriptedOrigin(shop.path) as origin:
        origin.fault = setting
        await device.pull("m", f"http://localhost:{origin.port}")  # of an address no jar keeps any
        assert len(origin.exchanges) > 2 and all(not exchange.cookies for exchange in origin.exchanges)
