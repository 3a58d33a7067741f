"""`modelsyncd` as a user meets it: JSON that is a contract, exit codes, one sentence on stderr, never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.disk.datadir import DataDir
from tests.support.shop import Shop
from tests.support.waiting import PATIENCE_SECONDS

DAEMON = "from modelsync_daemon.cli import main; main()"
SERVER = "from modelsync_server.cli import main; main()"


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run modelsyncd to its end."""
    return subprocess.run(
        [sys.executable, "-c", DAEMON, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )


def pull_command(origin: str, data: Path, shop: Shop) -> list[str]:
    """A whole `modelsyncd pull` for subprocess."""
    options = ["--origin", origin, "--data", str(data), "--trust", str(shop.trust)]
    return [sys.executable, "-c", DAEMON, "pull", "anomaly", *options]


def complains(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    """Assert that a call failed with `code` and one sentence."""
    assert done.returncode == code, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert done.stderr.startswith("modelsyncd: ") and done.stderr.endswith(".\n")


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON of a call that succeeded in silence."""
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@dataclass
class Site:
    """A store with one model, its origin, and a device's data directory."""

    shop: Shop
    origin: str
    data: Path

    def pull(self, *more: str) -> subprocess.CompletedProcess[str]:
        """`modelsyncd pull anomaly … --json`."""
        return run(
            "pull", "anomaly", "--origin", self.origin, "--data", self.data, "--trust", self.shop.trust, "--json", *more
        )


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = await Shop.open(tmp_path)
    await made.publish_bytes("anomaly", b"one" * 5000)
    yield made


@pytest.fixture
def site(shop: Shop, tmp_path: Path) -> Iterator[Site]:
    command = [sys.executable, "-c", SERVER, "serve", str(shop.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as origin:
        assert origin.stdout is not None
        url = json.loads(origin.stdout.readline())["url"]
        yield Site(shop, url, tmp_path / "data")
        origin.terminate()


async def test_pull_rollback_and_status_without_a_daemon(site: Site) -> None:
    first = said(site.pull())
    assert set(first) == {"name", "version", "digest", "path", "state", "plan", "wire", "seconds"}
    assert set(first["plan"]) == {"kind", "bytes", "requests"} and set(first["wire"]) == {
        "received",
        "sent",
        "requests",
    }
    assert (first["version"], first["state"]) == (1, "active")
    assert (Path(first["path"]) / "model.bin").read_bytes() == b"one" * 5000
    again = said(site.pull())
    assert again["plan"] == {"kind": "held", "bytes": 0, "requests": 0}
    assert said(run("status", "--data", site.data, "--json"))["models"]["anomaly"]["generation"] == 1

    await site.shop.publish_bytes("anomaly", b"one" * 4999 + b"two")
    second = said(site.pull())
    assert (second["version"], second["plan"]["kind"]) == (2, "update")
    back = said(run("rollback", "anomaly", "--data", site.data, "--json"))
    assert back == {"model": "anomaly", "version": 1, "digest": first["digest"], "generation": 3}
    status = said(run("status", "--data", site.data, "--json"))
    model = status["models"]["anomaly"]
    assert (model["version"], model["state"], model["hold"], model["previous"]) == (1, "rolled back", True, 2)
    assert status["daemon"]["pid"] is None and status["ledger"]["day"]["received"] > 0
    assert run("status", "--data", site.data).stdout.startswith("anomaly 1 rolled back since ")
    complains(run("status", "--data", site.data, "--running"), 4, "no modelsyncd listens on")
    assert run("release", "anomaly", "--data", site.data).returncode == 0
    complains(run("release", "anomaly", "--data", site.data), 3, "nothing to release")
    assert run("hold", "anomaly", "--data", site.data).returncode == 0
    assert said(site.pull())["plan"]["kind"] == "held"
    assert not said(run("status", "--data", site.data, "--json"))["models"]["anomaly"]["hold"]
    pinned = said(site.pull("--version", "1"))
    assert (pinned["version"], pinned["plan"]["bytes"]) == (1, 0)


def test_wrong_usage_says_what_to_do(site: Site, tmp_path: Path) -> None:
    base = ("pull", "anomaly", "--data", site.data, "--origin")
    complains(run("pull", "Bad/Name", "--data", site.data, "--origin", site.origin), 2, "not a model name")
    complains(run(*base, "ftp://x"), 2, "--origin")
    complains(run(*base, site.origin, "--trust", tmp_path / "none"), 2, "--trust")
    complains(run(*base, site.origin, "--ca", tmp_path / "none"), 2, "--ca")
    complains(run(*base, site.origin, "--version", "0"), 2, "not a version")
    complains(run("status", "--data", tmp_path / "none"), 2, "not a data directory")
    complains(run("rollback", "anomaly", "--data", tmp_path / "none"), 2, "not a data directory")
    complains(run("run", "--config", tmp_path / "none.toml"), 2, "can't be read")
    done = run("pull")
    assert done.returncode == 2 and "usage:" in done.stderr and "Traceback" not in done.stderr
    assert not (site.data / "models" / "anomaly").exists()


def test_refused_unreachable_and_busy_have_codes_of_their_own(site: Site, tmp_path: Path) -> None:
    complains(site.pull("--version", "9"), 3, "9")
    with DataDir(site.data).lock():
        complains(site.pull(), 5, "in use by another modelsyncd")
        complains(run("rollback", "anomaly", "--data", site.data), 5, "in use by another modelsyncd")
    complains(run("rollback", "anomaly", "--data", site.data), 3, "no active version")
    (tmp_path / "file").write_text("")
    complains(run("pull", "anomaly", "--origin", site.origin, "--data", tmp_path / "file"), 5, "data directory")
    said(site.pull())
    complains(run("rollback", "anomaly", "--data", site.data), 3, "no previous version")
    complains(run("hold", "other", "--data", site.data), 3, "not a model of this device")


def test_a_wrong_connection_string_ends_the_daemon_at_once(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('data = "d"\nconnection_string = "HostName=x"\n')
    complains(run("run", "--config", config), 2, "lacks DeviceId")
    config.write_text('data = "d"\ntrust = "none"\n')
    complains(run("run", "--config", config), 2, "setting trust")
    config.write_text('data = "d"\nconnection_string_file = "none"\n')
    complains(run("run", "--config", config), 2, "can't be read")


def test_without_settings_the_daemon_says_which_it_needs() -> None:
    complains(run("run"), 2, "--config")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_pull_in_order(shop: Shop, tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        origin = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = pull_command(origin, tmp_path / "data", shop)
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        silent.settimeout(20)
        try:
            silent.accept()
        except TimeoutError:
            child.kill()
            raise
        child.send_signal(number)
        _, errors = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 4 and "go on where it stopped" in errors and errors.count("\n") == 1


def test_progress_shows_on_a_terminal_only(site: Site) -> None:
    assert site.pull().stderr == ""
    main, terminal = pty.openpty()
    command = [
        "pull",
        "anomaly",
        "--origin",
        site.origin,
        "--data",
        str(site.data) + "2",
        "--trust",
        str(site.shop.trust),
    ]
    done = subprocess.run([sys.executable, "-c", DAEMON, *command], stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    shown = ""
    with contextlib.suppress(OSError):  # the other side is closed
        while block := os.read(main, 65536):
            shown += block.decode()
    os.close(main)
    assert "anomaly: fetching " in shown and "%" in shown
    assert shown.endswith("\x1b[K"), "nothing of it stays"
    assert done.stdout.decode().startswith("anomaly 1 is active: pack, ")


def test_progress_is_one_json_object_a_line_where_it_is_asked_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first = site.pull("--progress", "json")
    events = [json.loads(line) for line in first.stderr.splitlines()]
    assert {(event["event"], event["command"]) for event in events} == {("progress", "pull")}
    stages = list(dict.fromkeys(event["stage"] for event in events))
    assert stages == ["resolving", "planning", "fetching", "assembling", "done"]
    counted = [event for event in events if "total" in event]
    assert counted and counted[-1]["done"] == counted[-1]["total"] > 0
    monkeypatch.setenv("MODELSYNC_PROGRESS", "json")
    assert site.pull().stderr.splitlines()[-1] == '{"event": "progress", "command": "pull", "stage": "done"}'
    assert site.pull("--progress", "none").stderr == ""
    complains(site.pull("--progress", "loud"), 2, "is one of auto, bar, json, none")
