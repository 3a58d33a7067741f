"""Which rule is in force is said: by `status`, by metrics, by the doctor; and what is lacking, with what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon import cli
from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.config import Settings
from modelsync_daemon.doctor import machine
from modelsync_daemon.local import metrics
from modelsync_daemon.network import network_manager
from modelsync_protocol.policy.network_rules import parse_rules
from tests.daemon.fakes import NAME, device


async def _status(root: Path) -> dict[str, Any]:
    async with device(root) as pi:
        pi.plane.set_desired({"modelsync": {"policy": {"networks": [{"name": "depot", "interface": "lo"}]}}})
        pi.wish(1)
        await pi.serves(1)
        return pi.resident.commands.status()


async def test_status_metrics_and_doctor_name_the_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = await _status(tmp_path)
    monkeypatch.setattr("modelsync_daemon.api.status_document", lambda data, running: status)
    with pytest.raises(SystemExit):
        monkeypatch.setattr("os._exit", _exit)
        cli.main(["status", "--data", str(tmp_path)])
    assert "network rule depot in force on lo\n" in capsys.readouterr().out
    text = metrics.render(status, Processes())[0].decode()
    assert 'modelsync_network_rule{rule="depot"} 1.0' in text
    assert 'modelsync_network_bytes{direction="sent",period="day",rule="depot"}' in text
    assert [finding.text for finding in machine._network(status)] == ["the network rule depot is in force on lo."]
    del status["network"]
    assert "modelsync_network" not in metrics.render(status, Processes())[0].decode()
    assert NAME in status["models"]


def _exit(code: int) -> None:
    raise SystemExit(code)


def test_the_doctor_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = parse_rules([{"name": "depot", "ssid": "DEPOT"}])
    settings = Settings(data=tmp_path, networks=rules, site_address="0.0.0.0:1", site_discover=True)
    assert list(machine.libraries(settings)) == []
    monkeypatch.setattr(network_manager, "installed", lambda: False)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    found = list(machine.libraries(settings))
    assert [finding.mend for finding in found] == ["apt install python3-jeepney", "apt install python3-zeroconf"]
    assert list(machine.libraries(Settings(data=tmp_path))) == []


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({"rule": None, "interface": None}, "no network leads to the origin"),
        ({"rule": None, "interface": "eth0"}, "no network rule is in force on eth0"),
        ({"rule": None, "interface": "wlan0", "problem": network_manager.NO_ANSWER}, "does not answer on D-Bus"),
    ],
)
def test_what_stands_in_the_way_is_said(network: dict[str, Any], says: str) -> None:
    (finding,) = machine._network({"network": network})
    assert says in finding.text
