"""An idle day on the hub's line, put together from measured parts; the ledger agrees with the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelsync_daemon.config import Settings
from tests.support.azure_world import Cloud, cloud
from tests.support.shop import Shop

DAY = 86_400
BUDGET_BYTES = 50_000
SHORT_KEEP_ALIVE = 5


def _bytes(made: Cloud) -> int:
    counts = made.relay.counts()
    return counts.up + counts.down


async def _still(made: Cloud) -> int:
    """The bytes so far, once none came for a second."""
    before, now = -1, _bytes(made)
    while now != before:
        await asyncio.sleep(1)
        before, now = now, _bytes(made)
    return now


async def test_an_idle_day_costs_at_most_50_kilobytes(tmp_path: Path, worker_id: str) -> None:
    shop = await Shop.open(tmp_path)
    async with cloud(tmp_path, worker_id) as made:
        text = f'connection_string = "{made.hub.add_device("pi")}"'
        await made.start(shop.trust, text, f"keep_alive_seconds = {SHORT_KEEP_ALIVE}")
        await made.until(lambda: "modelsync" in made.hub.reported("pi"), "a report")
        connection = await _still(made)
        await asyncio.sleep(2.5 * SHORT_KEEP_ALIVE)
        pings = _bytes(made) - connection
        assert 0 < pings <= 400, "nothing but two or three keep-alives"
        before = _bytes(made)
        answer = await made.invoke("sync")  # reads the twin, as the timer does
        assert answer.status == 202
        await asyncio.sleep(0.5)
        read = await _still(made) - before
        spent = _bytes(made)
        day = (await made.invoke("status")).payload["ledger"]["day"]
        assert 0 <= day["received"] + day["sent"] - spent < 1_000, "the ledger has every byte (and this question's)"
        settings = Settings(data=Path("x"))
        total = (
            (DAY / settings.token_seconds + 1) * connection  # renewals, and one break of the line
            + DAY / settings.keep_alive_seconds * pings / 2
            + DAY / (0.8 * settings.reconcile_seconds) * read
        )
        assert total <= BUDGET_BYTES, f"{total:.0f}: {connection} a connection, {pings / 2} a ping, {read} a read"
