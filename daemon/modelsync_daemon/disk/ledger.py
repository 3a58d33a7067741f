"""Counts every byte on the wire by local day and month, by network too, and says what a policy still allows.

It counts what it is told; who reads sockets tells it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from modelsync_daemon.disk.database import Database
from modelsync_protocol.policy.network_rules import NetworkRule
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
    """Bytes per period. Small amounts stay in memory until `flush` (hourly, and at the end), so that idle is idle.

    `network` names the network rule that is in force, empty if none is.
    """

    def __init__(self, database: Database, network: Callable[[], str] = lambda: "") -> None:
        self._database, self._network = database, network
        self._pending: dict[str, Amount] = {}
        self._pending_here: dict[tuple[str, str], Amount] = {}

    def add(self, received: int, sent: int) -> None:
        """Count bytes now."""
        if received <= 0 and sent <= 0:
            return
        network = self._network()
        for period in self._periods():
            self._pending[period] = self._pending.get(period, Amount()).plus(max(received, 0), max(sent, 0))
            if network:
                before = self._pending_here.get((network, period), Amount())
                self._pending_here[network, period] = before.plus(max(received, 0), max(sent, 0))
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
            for (network, period), amount in self._pending_here.items():
                connection.execute(
                    "INSERT INTO network_ledger VALUES (?, ?, ?, ?) ON CONFLICT (network, period) DO UPDATE SET"
                    " received = received + excluded.received, sent = sent + excluded.sent",
                    (network, period, amount.received, amount.sent),
                )
            if self._pending_here:
                connection.execute(
                    "DELETE FROM network_ledger WHERE period NOT IN (?, ?) AND period NOT IN"
                    " (SELECT DISTINCT period FROM network_ledger ORDER BY period DESC LIMIT ?)",
                    (*self._periods(), _KEEP_PERIODS),
                )
        self._pending, self._pending_here = {}, {}

    def day(self) -> Amount:
        """This local day's bytes."""
        return self._amount(self._periods()[0])

    def month(self) -> Amount:
        """This local month's bytes."""
        return self._amount(self._periods()[1])

    def document(self) -> dict[str, dict[str, int]]:
        """The ledger as status and twin show it."""
        return _document(self.day(), self.month())

    def networks(self) -> dict[str, dict[str, dict[str, int]]]:
        """The same of each network that carried anything this month."""
        day, month = self._periods()
        rows = self._database.connection.execute("SELECT network FROM network_ledger WHERE period = ?", (month,))
        names = {str(row[0]) for row in rows} | {name for name, period in self._pending_here if period == month}
        return {name: _document(self._here(name, day), self._here(name, month)) for name in sorted(names)}

    def left(self, policy: Policy) -> int | None:
        """Bytes that `policy` still allows now, at least 0; None means no limit."""
        return _left(policy, self.day(), self.month())

    def left_on(self, rule: NetworkRule) -> int | None:
        """The same of a network's own budgets, which only what was carried there counts against."""
        day, month = self._periods()
        return _left(rule, self._here(rule.name, day), self._here(rule.name, month))

    def _here(self, network: str, period: str) -> Amount:
        row = self._database.connection.execute(
            "SELECT received, sent FROM network_ledger WHERE network = ? AND period = ?", (network, period)
        ).fetchone()
        pending = self._pending_here.get((network, period), Amount())
        return pending if row is None else pending.plus(row[0], row[1])

    def _amount(self, period: str) -> Amount:
        pending = self._pending.get(period, Amount())
        row = self._database.connection.execute(
            "SELECT received, sent FROM ledger WHERE period = ?", (period,)
        ).fetchone()
        return pending if row is None else pending.plus(row[0], row[1])

    def _periods(self) -> tuple[str, str]:
        now = time.localtime(self._database.clock())
        return time.strftime("%Y-%m-%d", now), time.strftime("%Y-%m", now)


def _document(day: Amount, month: Amount) -> dict[str, dict[str, int]]:
    return {
        period: {"received": amount.received, "sent": amount.sent}
        for period, amount in (("day", day), ("month", month))
    }


def _left(limits: Policy | NetworkRule, day: Amount, month: Amount) -> int | None:
    pairs = ((limits.bytes_per_day, day), (limits.bytes_per_month, month))
    left = [limit - amount.total for limit, amount in pairs if limit is not None]
    return max(0, min(left)) if left else None


def stricter(local: Policy, twin: Policy) -> Policy:
    """Both policies at once: the lower limits; windows must allow on both sides (an empty overlap never opens).

    Of neighbours and networks the twin's word goes before the local one.
    """
    return Policy(
        bytes_per_day=lower(local.bytes_per_day, twin.bytes_per_day),
        bytes_per_month=lower(local.bytes_per_month, twin.bytes_per_month),
        rate_limit=lower(local.rate_limit, twin.rate_limit),
        windows=_overlap(local.windows, twin.windows),
        hold=local.hold or twin.hold,
        site=twin.site,
        networks=twin.networks or local.networks,
    )


def narrowed(policy: Policy, rule: NetworkRule) -> Policy:
    """A policy on a network with that rule; budgets are not among it, since each counts bytes of its own."""
    return replace(
        policy,
        rate_limit=lower(policy.rate_limit, rule.rate_limit),
        windows=_overlap(policy.windows, rule.windows),
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


def lower(one: int | None, other: int | None) -> int | None:
    """The lower of two limits, None being none."""
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
