"""Counts every byte on the wire by local day and month, and says what a policy still allows.

It counts what it is told; who reads sockets tells it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from modelsync_daemon.disk.database import Database
from modelsync_protocol.twin import NEVER, Policy, Window

_FLUSH_BYTES = 256 * 1024
_KEEP_PERIODS = 62


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes received and sent, TCP payload with TLS and headers."""

    received: int = 0
    sent: int = 0

    @property
    def total(self) -> int:
        """Both directions together."""
        return self.received + self.sent

    def plus(self, received: int, sent: int) -> Amount:
        """This and more bytes."""
        return Amount(self.received + received, self.sent + sent)


class Ledger:
    """Bytes per period. Small amounts stay in memory until `flush` (hourly, and at the end), so that idle is idle."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: dict[str, Amount] = {}

    def add(self, received: int, sent: int) -> None:
        """Count bytes now."""
        if received <= 0 and sent <= 0:
            return
        for period in self._periods():
            self._pending[period] = self._pending.get(period, Amount()).plus(max(received, 0), max(sent, 0))
        if max(amount.total for amount in self._pending.values()) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make what was counted durable; writes nothing if there is nothing. Raises LocalError; then it is kept."""
        pending = self._pending
        if not pending:
            return
        with self._database.transaction() as connection:
            for period, amount in pending.items():
                connection.execute(
                    "INSERT INTO ledger VALUES (?, ?, ?) ON CONFLICT (period) DO UPDATE SET"
                    " received = received + excluded.received, sent = sent + excluded.sent",
                    (period, amount.received, amount.sent),
                )
            connection.execute(
                # A clock that was ahead left periods of the future, which must not push out what counts now.
                "DELETE FROM ledger WHERE period NOT IN (SELECT period FROM ledger ORDER BY period DESC LIMIT ?)"
                " AND period NOT IN (?, ?)",
                (_KEEP_PERIODS, *self._periods()),
            )
        self._pending = {}

    def day(self) -> Amount:
        """This local day's bytes."""
        return self._amount(self._periods()[0])

    def month(self) -> Amount:
        """This local month's bytes."""
        return self._amount(self._periods()[1])

    def document(self) -> dict[str, dict[str, int]]:
        """The ledger as status and twin show it."""
        return {
            period: {"received": amount.received, "sent": amount.sent}
            for period, amount in (("day", self.day()), ("month", self.month()))
        }

    def left(self, policy: Policy) -> int | None:
        """Bytes that `policy` still allows now, at least 0; None means no limit."""
        limits = [
            limit - amount.total
            for limit, amount in ((policy.bytes_per_day, self.day()), (policy.bytes_per_month, self.month()))
            if limit is not None
        ]
        return max(0, min(limits)) if limits else None

    def _amount(self, period: str) -> Amount:
        pending = self._pending.get(period, Amount())
        row = self._database.connection.execute(
            "SELECT received, sent FROM ledger WHERE period = ?", (period,)
        ).fetchone()
        return pending if row is None else pending.plus(row[0], row[1])

    def _periods(self) -> tuple[str, str]:
        now = time.localtime(self._database.clock())
        return time.strftime("%Y-%m-%d", now), time.strftime("%Y-%m", now)


def stricter(local: Policy, twin: Policy) -> Policy:
    """Both policies at once: the lower limits; windows must allow on both sides (an empty overlap never opens)."""
    return Policy(
        bytes_per_day=_lower(local.bytes_per_day, twin.bytes_per_day),
        bytes_per_month=_lower(local.bytes_per_month, twin.bytes_per_month),
        rate_limit=_lower(local.rate_limit, twin.rate_limit),
        windows=_overlap(local.windows, twin.windows),
        hold=local.hold or twin.hold,
        site=twin.site,
    )


def seconds_to_open(policy: Policy, now: float) -> float:
    """Seconds until a window opens; 0 while one is open or none is set."""
    return _seconds_until(policy, now, True)


def seconds_to_close(policy: Policy, now: float) -> float | None:
    """Seconds until the open window closes; None if none is set."""
    return _seconds_until(policy, now, False) if policy.windows else None


def seconds_to_next_day(now: float) -> float:
    """Seconds until the local midnight, when a day's budget begins anew."""
    local = time.localtime(now)
    return 86400.0 - (local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec)


def _seconds_until(policy: Policy, now: float, wanted: bool) -> float:
    local = time.localtime(now)
    minute = local.tm_hour * 60 + local.tm_min
    if not policy.windows:
        return 0.0
    for ahead in range(1441):
        if any(window.holds((minute + ahead) % 1440) for window in policy.windows) == wanted:
            return max(0.0, ahead * 60.0 - local.tm_sec)
    return 86400.0


def _lower(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _overlap(one: tuple[Window, ...], other: tuple[Window, ...]) -> tuple[Window, ...]:
    if not one or not other:
        return one or other
    minutes = [any(a.holds(minute) for a in one) and any(b.holds(minute) for b in other) for minute in range(1440)]
    if all(minutes):
        return (Window(0, 1440),)
    begins = [m for m in range(1440) if minutes[m] and not minutes[m - 1]]
    ends = [m for m in range(1440) if not minutes[m] and minutes[m - 1]]
    pairs = tuple(Window(begin, next((end for end in ends if end > begin), ends[0])) for begin in begins)
    return pairs or (NEVER,)
