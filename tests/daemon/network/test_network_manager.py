"""SSID and metered come from NetworkManager over D-Bus: a real bus, and a stand-in that keeps its interface's rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_daemon.network import network_manager
from modelsync_daemon.network.network_manager import NO_ANSWER, NO_LIBRARY, Answer, ask
from modelsync_daemon.network.networks import Networks
from modelsync_protocol.policy.network_rules import NetworkRule, parse_rules
from tests.support.network_manager import LACKING, FakeNetworkManager, bus

on_a_bus = pytest.mark.skipif(bool(LACKING), reason=f"NOT RUN: {LACKING}")
RULES = parse_rules(
    [
        {"name": "depot", "ssid": ["DEPOT", "Hof 2"]},
        {"name": "paid", "metered": True, "max_update_bytes": 20_000},
        {"name": "free", "metered": False},
    ]
)


def _networks(rules: tuple[NetworkRule, ...] = RULES) -> Networks:
    return Networks(lambda: rules, lambda: "http://127.0.0.1:9")


@on_a_bus
async def test_the_first_rule_that_fits_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bus(tmp_path) as address, FakeNetworkManager("lo").on(address) as manager:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        networks = _networks()
        seen = []
        for ssid, metered in (
            (b"DEPOT", 1),
            (b"Hof 2", 0),
            (b"Cafe", 3),
            (None, 1),
            (b"", 4),
            (b"depot", 2),
            (None, 0),
        ):
            manager.ssid, manager.metered = ssid, metered
            await networks.look()
            assert networks.now is not None and networks.now.problem == ""
            seen.append((networks.name(), networks.now.metered, networks.now.ssid))
        assert seen == [
            ("depot", True, "DEPOT"),
            ("depot", None, "Hof 2"),
            ("paid", True, "Cafe"),
            ("paid", True, None),
            ("free", False, None),
            ("free", False, "depot"),
            ("", None, None),
        ], "guesses count; what NetworkManager does not know fits no rule"


@on_a_bus
async def test_who_does_not_answer_or_does_not_know_fits_no_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nowhere")
    assert await ask("lo") == Answer(problem=NO_ANSWER)
    async with bus(tmp_path) as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        assert await ask("lo") == Answer(problem=NO_ANSWER), "a bus without NetworkManager"
        async with FakeNetworkManager("wlan0", 1, b"\xff\xfe").on(address) as manager:
            assert await ask("lo") == Answer(), "an interface that it does not manage"
            assert (await ask("wlan0")).ssid == "\ufffd\ufffd", "an SSID need not be text"
            manager.mute = True
            monkeypatch.setattr(network_manager, "_SECONDS", 0.3)
            assert await ask("wlan0") == Answer(problem=NO_ANSWER)
    networks = _networks()
    await networks.look()
    shown = networks.document()
    assert networks.rule is None and shown == {
        "rule": None, "since": shown and shown["since"], "interface": "lo", "ssid": None, "metered": None,
        "neighbour": None, "problem": NO_ANSWER,
    }  # fmt: skip


async def test_without_the_library_the_device_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jeepney", None)
    networks = _networks()
    await networks.look()
    assert networks.now is not None and networks.now.problem == NO_LIBRARY and networks.rule is None
    assert networks.closed() == "", "the rules that ask nothing of it go on"


async def test_nobody_is_asked_where_no_rule_asks() -> None:
    asked = []

    async def ask_nobody(interface: str) -> Answer:
        asked.append(interface)
        return Answer(ssid="DEPOT")

    rules = parse_rules([{"name": "wired", "interface": "l[o]"}, {"name": "depot", "ssid": "DEPOT"}])
    networks = Networks(lambda: rules, lambda: "http://127.0.0.1:9", ask=ask_nobody)
    await networks.look()
    assert networks.name() == "wired" and asked == []


def test_a_daemon_without_such_rules_carries_neither_library() -> None:
    script = (
        "import sys, modelsync_daemon.service, modelsync_daemon.resident;"
        "print(sorted({'jeepney', 'zeroconf', 'ifaddr'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
