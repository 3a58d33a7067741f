"""What a network's rule gives: no downloads, limits, budgets of its own; what happens when another one is in force."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon import config
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.ledger import Amount, Ledger
from modelsync_daemon.transfer.errors import BudgetExceeded, TooLargeHere
from modelsync_daemon.workers.messages import error_of, kind_of
from modelsync_protocol.errors import UnreachableError, UsageError
from modelsync_protocol.policy.network_rules import parse_rules
from tests.daemon.fakes import NAME, Device, device

ORIGIN = "http://127.0.0.1:9"
"""Reached by lo."""


def rules(pi: Device, *items: dict[str, Any], **policy: Any) -> None:
    """Set the twin's rules by network."""
    pi.plane.set_desired({"modelsync": {"policy": {"networks": list(items), **policy}}})


async def test_no_downloads_waits_and_says_which_rule(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        rules(pi, {"name": "depot", "interface": ["eth7", "wlan*"]}, {"name": "elsewhere", "downloads": False})
        pi.wish(1)
        await pi.is_in("waiting", "network")
        assert "elsewhere (lo) allows no downloads" in pi.row().error_text and pi.preparer.jobs == []
        await pi.until(lambda: pi.shown_model().get("error", {}).get("code") == "network", "the report")
        assert pi.shown()["network"]["rule"] == "elsewhere"
        rules(pi, {"name": "depot", "interface": "lo"}, {"name": "elsewhere", "downloads": False})
        await pi.serves(1)
        shown = pi.resident.commands.status()["network"]
        assert (shown["rule"], shown["interface"], shown["ssid"]) == ("depot", "lo", None)
        assert shown["ledger"]["depot"]["day"]["received"] >= 1000
        await pi.until(lambda: pi.shown()["network"]["rule"] == "depot", "the report")
        assert "interface" not in pi.shown()["network"], "where a device is stays there"


async def test_the_file_says_it_too_and_the_twin_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    tables = '[[networks]]\nname = "any"\nmetered = true\n[[networks]]\nname = "shut"\ndownloads = false\n'
    path.write_text(f'data = "d"\n{tables}')
    local = config.load(path).networks
    assert [rule.name for rule in local] == ["any", "shut"] and local[0].metered is True
    text = '[{"name": "any", "metered": true}, {"name": "shut", "downloads": false}]'
    environment = {"IOTEDGE_WORKLOADURI": "x", "MODELSYNC_DATA": "/d", "MODELSYNC_NETWORKS": text}
    assert config.from_environment(environment).networks == local
    async with device(tmp_path / "d", networks=parse_rules([{"name": "shut", "downloads": False}])) as pi:
        pi.wish(1)
        await pi.is_in("waiting", "network")
        rules(pi, {"name": "twin"})
        await pi.serves(1)


@pytest.mark.parametrize(
    "text", ['networks = "lte"', "networks = [1]", '[[networks]]\nname = "a"\nmax = 1', '[[networks]]\nssid = "x"']
)
def test_a_wrong_rule_in_the_file_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'data = "d"\n{text}\n')
    with pytest.raises(UsageError, match="the setting networks: "):
        config.load(path)


async def test_a_wrong_rule_in_the_twin_closes_the_device_and_is_one_sentence(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        rules(pi, {"name": "lte", "interface": "wwan*", "max_bytes": 5}, {"name": "rest"})
        pi.wish(2)
        await pi.is_in("waiting", "policy")
        assert "policy/networks: lte has 'max_bytes', which is no key of a rule" in pi.row().error_text
        await pi.until(lambda: list(pi.shown().get("problems", {})) == ["policy/networks"], "the problem")
        assert len(pi.preparer.jobs) == 1 and pi.shown_model()["version"] == 1, "what serves goes on"
        rules(pi, {"name": "rest"})
        await pi.serves(2)


async def test_the_stricter_of_policy_and_rule_goes_to_the_worker(tmp_path: Path) -> None:
    async with device(tmp_path, rate_limit=500) as pi:
        pi.resident.ledger.add(1_000_000, 0)  # on no network
        limits = {"rate_limit": 900, "max_update_bytes": 7000, "bytes_per_day": 50_000}
        rules(pi, {"name": "here", **limits}, bytes_per_month=1_020_000, bytes_per_day=None)
        pi.wish(1)
        await pi.serves(1)
        job = pi.preparer.jobs[0]
        assert (job.rate_limit, job.update_limit, job.network) == (500, 7000, "here")
        assert job.byte_limit is not None and 0 < job.byte_limit < 20_000, "what the month has left"
        rules(pi, {"name": "here", **limits}, bytes_per_month=None)
        pi.wish(2)
        await pi.serves(2)
        job = pi.preparer.jobs[-1]
        assert job.byte_limit is not None and 40_000 < job.byte_limit < 50_000, "only what was carried here counts here"


async def test_another_rule_stops_a_fetch_and_it_goes_on_under_the_new_one(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        rules(pi, {"name": "depot", "interface": "lo"})
        pi.preparer.block.clear()
        pi.wish(1)
        await pi.until(lambda: pi.preparer.jobs, "the fetch")
        rules(pi, {"name": "lte", "interface": "lo", "max_update_bytes": 5})
        await pi.until(lambda: len(pi.preparer.jobs) == 2, "the second attempt")
        assert pi.preparer.cancelled == 1 and pi.preparer.jobs[1].update_limit == 5
        rules(pi, {"name": "closed", "downloads": False})
        await pi.is_in("waiting", "network")
        assert pi.preparer.cancelled == 2
        pi.preparer.block.set()
        rules(pi, {"name": "depot"})
        await pi.serves(1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TooLargeHere("too large here."), "network"),
        (BudgetExceeded("over."), "budget"),
        (UnreachableError("no."), "offline"),
    ],
)
async def test_what_waits_for_the_network_is_tried_on_another(tmp_path: Path, error: Any, code: str) -> None:
    async with device(tmp_path) as pi:
        rules(pi, {"name": "one"})
        pi.preparer.fail = [error_of(kind_of(error), str(error))]
        pi.wish(1)
        if code != "offline":  # which is tried again by itself
            await pi.is_in("waiting", code)
            assert pi.row().retry_at > time.time() + 1, "until something changes"
        rules(pi, {"name": "two"})
        await pi.serves(1)


async def test_a_device_that_speaks_from_another_address_connects_again(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        connects = pi.plane.connects
        pi.resident.device.networks.moved()
        await pi.until(lambda: pi.plane.connects == connects + 1 and pi.plane.connected, "the connection")


def test_budgets_of_networks_are_counted_apart(tmp_path: Path) -> None:
    name, now = "depot", [time.mktime(time.strptime("2026-11-29 12:00:00", "%Y-%m-%d %H:%M:%S"))]
    database = Database(tmp_path / "state.db", lambda: now[0])
    ledger = Ledger(database, lambda: name)
    ledger.add(100, 10)
    name = "lte"
    ledger.add(7, 1)
    ledger.flush()
    ledger.add(2, 0)
    name = ""
    ledger.add(1000, 0)
    assert ledger.day() == Amount(1109, 11)
    again = Ledger(Database(tmp_path / "state.db", lambda: now[0]))
    assert again.networks()["depot"]["month"] == {"received": 100, "sent": 10}
    assert ledger.networks()["lte"]["day"] == {"received": 9, "sent": 1}
    (rule,) = parse_rules([{"name": "lte", "bytes_per_day": 100, "bytes_per_month": 15}])
    assert ledger.left_on(rule) == 5
    now[0] += 86400
    assert ledger.left_on(rule) == 5 and ledger.networks()["lte"]["day"] == {"received": 0, "sent": 0}
    for day in range(100):
        now[0] += 86400
        name = f"n{day % 3}"
        ledger.add(1, 1)
        ledger.flush()
    assert database.connection.execute("SELECT count(*) FROM network_ledger").fetchone()[0] < 3 * 70, "it has a bound"


def test_an_old_data_directory_goes_on_and_an_old_daemon_after_a_new_one(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.create()
    made = Database(data.state_db)
    Ledger(made).add(300_000, 0)
    made.remember("desired", "{}")
    made.connection.execute("DROP TABLE network_ledger")  # as it was before
    made.close()
    opened = Database.open(data)
    ledger = Ledger(opened, lambda: "lte")
    assert ledger.day().received == 300_000 and ledger.networks() == {}
    ledger.add(300_000, 0)
    assert ledger.networks()["lte"]["day"]["received"] == 300_000
    opened.close()
    with sqlite3.connect(data.state_db) as older:
        assert older.execute("PRAGMA user_version").fetchone()[0] == 1, "its schema is the one that it knows"
    assert NAME
