"""Counts what neighbours exchange, by local day and month: no uplink's bytes, so no budget counts them."""

from __future__ import annotations

import json
import time
from typing import Final

from modelsync_daemon.disk.database import Database

_DOCUMENT = "site_ledger"
_KEEP_PERIODS = 62
_FLUSH_BYTES = 4 * 1024 * 1024
_KEYS = ("received", "sent", "wasted")


class SiteLedger:
    """Bytes per period: received from neighbours, sent to them, and `wasted`: received, and not what they should be.

    They stay in memory until `flush`, as the ledger's do.
    """

    NOTHING: Final = {period: dict.fromkeys(_KEYS, 0) for period in ("day", "month")}

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: dict[str, list[int]] = {}

    def add(self, received: int, sent: int, wasted: int = 0) -> None:
        """Count bytes now."""
        if received <= 0 and sent <= 0 and wasted <= 0:
            return
        for period in self._periods():
            amount = self._pending.setdefault(period, [0, 0, 0])
            for place, more in enumerate((received, sent, wasted)):
                amount[place] += max(more, 0)
        if max(sum(amount) for amount in self._pending.values()) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make what was counted durable; writes nothing if there is nothing. Raises LocalError; then it is kept."""
        if self._pending:
            counted = self._counted()
            latest = sorted(counted)[-_KEEP_PERIODS:]
            kept = {period: counted[period] for period in counted if period in latest or period in self._periods()}
            self._database.remember(_DOCUMENT, json.dumps(kept))
            self._pending = {}

    def document(self) -> dict[str, dict[str, int]] | None:
        """This day's and month's bytes, as status and twin show them; None if neighbours never exchanged any."""
        counted = self._counted()
        if not counted:
            return None
        amounts = zip(("day", "month"), self._periods(), strict=True)
        return {name: dict(zip(_KEYS, counted.get(period, (0, 0, 0)), strict=True)) for name, period in amounts}

    def _counted(self) -> dict[str, list[int]]:
        try:
            found = json.loads(self._database.document(_DOCUMENT) or "{}")
            counted = {str(period): [int(value) for value in amount] for period, amount in found.items()}
        except (ValueError, TypeError, AttributeError):
            counted = {}
        for period, amount in self._pending.items():
            before = counted.get(period, [0, 0, 0])
            counted[period] = [a + b for a, b in zip(before, amount, strict=False)]
        return counted

    def _periods(self) -> tuple[str, str]:
        now = time.localtime(self._database.clock())
        return time.strftime("%Y-%m-%d", now), time.strftime("%Y-%m", now)
