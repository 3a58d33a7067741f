"""`modelsyncd doctor`: what is wrong is found, with the command that mends it; what is right is left in peace."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelsync_daemon import pull
from modelsync_daemon.disk.control_state import ControlFile
from modelsync_daemon.doctor import network
from modelsync_daemon.doctor.examination import examine
from modelsync_protocol import findings
from modelsync_protocol.errors import UsageError
from modelsync_protocol.findings import Finding
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.addresses import loopback_address
from tests.support.mosquitto import mosquitto
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


def of(found: list[Finding], check: str) -> list[Finding]:
    """The findings of one check."""
    return [each for each in found if each.check == check]


def look(data: Path) -> list[Finding]:
    return examine(None, data, {}, online=False)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data directory with a pulled model."""
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", b"one" * 500)
    async with ScriptedOrigin(shop.path) as origin:
        await asyncio.to_thread(pull, "m", origin.url, tmp_path / "data", trust=shop.trust)
    return tmp_path / "data"


def test_a_sound_directory_has_no_problem(data: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*"))
    found = look(data)
    assert findings.exit_code(found) == 0
    assert {each.check: each.level.value for each in found} == {
        **dict.fromkeys(("confinement", "permissions", "formats", "trust", "clock", "disk", "core"), "ok"),
        "socket": "warning",
    }
    assert sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*")) == before, "it only looks"


def test_a_directory_that_is_not_there_yet_is_no_problem_and_a_file_is_one(tmp_path: Path) -> None:
    assert findings.exit_code(look(tmp_path / "new" / "data")) == 0
    (tmp_path / "file").touch()
    assert findings.exit_code(look(tmp_path / "file")) == 5


def test_a_database_of_another_format_or_damaged_is_named(data: Path) -> None:
    with sqlite3.connect(data / "state.db") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    (found,) = of(look(data), "formats")
    assert found.code == 5 and "99" in found.text and found.mend is not None and "apt" in found.mend
    (data / "state.db").write_bytes(b"no database" * 1000)
    (found,) = of(look(data), "formats")
    assert found.code == 5 and found.mend == "systemctl restart modelsyncd"


def test_an_expired_list_is_told_with_who_can_renew_it(data: Path) -> None:
    path = data / "trust" / "timestamp.json"
    document = json.loads(path.read_bytes())
    document["signed"]["expires"] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    (found, _) = of(look(data), "trust")
    assert found.level.value == "warning" and found.mend is not None and "modelsync refresh" in found.mend
    path.write_text('{"signed": []}')
    assert findings.exit_code(look(data)) == 0


def test_a_clock_that_is_behind_what_was_signed_is_a_problem(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 946_684_800.0)
    (found,) = of(look(data), "clock")
    assert found.code == 5 and "2000-01-01" in found.text and found.mend == "timedatectl set-ntp true"


def test_a_full_disk_is_a_problem_before_it_stops_an_update(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(data)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    (found,) = of(look(data), "disk")
    assert found.code == 5 and found.mend is not None and found.mend.startswith("modelsyncd gc")


def test_a_socket_that_nobody_listens_on_is_told_apart_from_no_daemon(data: Path) -> None:
    (none,) = of(look(data), "socket")
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(data)  # a socket's path may have 108 bytes only
        try:
            made.bind("daemon.sock")
        finally:
            os.chdir(here)
    (stale,) = of(look(data), "socket")
    assert none.mend == "systemctl start modelsyncd" and stale.mend == "systemctl restart modelsyncd"


async def test_a_broker_is_asked_and_what_its_daemon_found_is_told(data: Path, tmp_path: Path) -> None:
    config, word = tmp_path / "modelsyncd.toml", tmp_path / "word"
    word.write_text("x")
    word.chmod(0o600)

    def asked(url: str, more: str = "") -> Finding:
        config.write_text(
            f'data = "{data}"\ncontrol_kind = "mqtt"\ncontrol_url = "{url}"\ncontrol_device = "pi"\n{more}'
        )
        config.chmod(0o600)
        (found,) = of(examine(config, None, {}), "hub")
        return found

    with mosquitto(tmp_path / "broker", tls=True) as served:
        assert served.tls is not None
        ca = f'ca = "{served.tls.ca}"'
        assert asked(served.url, ca).code == 0
        distrusted = asked(served.url)
        assert distrusted.code == 4 and "not believed" in distrusted.text
        ControlFile(data, "here").change(problem="another client connects to the broker as pi.")
        told = asked(served.url, ca)
        assert told.code == 3 and told.text.startswith("another client") and "control_device" in str(told.mend)
        wrong = asked(served.url, f'ca = "{word}"')
        assert wrong.code == 2
    gone = asked(served.url, ca)
    assert gone.code == 4 and "websockets" not in gone.text


async def test_origin_and_hub_are_asked_as_the_daemon_would(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "modelsyncd.toml"
    host = loopback_address()

    def write(origin: str, connection: str, ca: Path | None) -> None:
        lines = [f'data = "{data}"', f'origin = "{origin}"', f'connection_string = "{connection}"']
        config.write_text("\n".join([*lines, *([f'ca = "{ca}"'] if ca else [])]))
        config.chmod(0o600)

    async def asked() -> dict[str, int]:
        found = await asyncio.to_thread(examine, config, None, {})
        return {each.check: each.code for each in found if each.check in ("origin", "hub", "config", "secrets")}

    async with Hub(tmp_path / "hub", HubAddress(host, 8883, 0)) as hub, ScriptedOrigin(tmp_path / "store") as origin:
        connection = hub.add_device("pi")
        write(origin.url, connection, hub.ca_path)
        assert await asked() == {"config": 0, "origin": 0, "hub": 0}
        write(origin.url, connection, None)
        assert await asked() == {"config": 0, "origin": 0, "hub": 4}  # the hub's certificate is not believed
        count = len(origin.exchanges)
        offline = await asyncio.to_thread(examine, config, None, {}, online=False)
        assert not of(offline, "origin") and len(origin.exchanges) == count
    monkeypatch.setattr(network, "_SECONDS", 1.0)
    write(origin.url, connection, None)
    assert (await asked())["hub"] == 4  # nobody listens any more
    config.chmod(0o644)
    assert "secrets" in await asked()
    config.write_text("data = 5")
    assert findings.exit_code(examine(config, None, {})) == 2


async def test_the_origin_that_the_twin_named_is_asked_when_the_settings_name_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "modelsyncd.toml"
    config.write_text(f'data = "{data}"')
    (unknown,) = of(await asyncio.to_thread(examine, config, None, {}), "origin")
    assert "no origin is known" in unknown.text
    async with ScriptedOrigin(tmp_path / "store") as origin:
        wished = json.dumps({"modelsync": {"origin": f"{origin.url}?sig=secret"}})
        with sqlite3.connect(data / "state.db") as connection:
            connection.execute("INSERT OR REPLACE INTO documents VALUES ('desired', ?)", (wished,))
        connection.close()
        (there,) = of(await asyncio.to_thread(examine, config, None, {}), "origin")
        assert there.level.value == "ok" and "secret" not in there.text
    monkeypatch.setattr(network, "_SECONDS", 1.0)
    found = await asyncio.to_thread(examine, config, None, {})
    (gone,) = of(found, "origin")
    assert gone.code == 4 and gone.mend is not None and "secret" not in gone.text + gone.mend


def test_the_command_prints_findings_and_ends_with_their_code(data: Path) -> None:
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("modelsyncd"), "doctor", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--data", data)
    assert done.returncode == 0 and "mend: systemctl start modelsyncd" in done.stdout and done.stderr == ""
    document = json.loads(run("--data", data, "--json").stdout)
    assert document["ok"] is True and set(document["findings"][0]) == {"check", "level", "text", "mend"}
    (data / "state.db").write_bytes(b"no database" * 1000)
    assert run("--data", data).returncode == 5
    nothing = run()
    assert (nothing.returncode, nothing.stdout) == (2, "") and nothing.stderr.startswith("modelsyncd: there is nothing")


def test_nothing_named_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--config"):
        examine(None, None, {})
