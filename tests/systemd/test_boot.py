"""The packages on booted systemd, amd64 and 32-bit Arm: start, kill, hang, crash loop, update, upgrade, purge."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.addresses import free_port
from tests.support.machine import Machine
from tests.support.waiting import wait_until
from tests.systemd.conftest import CHECKOUT, NEW, World, install

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

DAEMON, INFER = "modelsyncd.service", "modelsync-infer@anomaly.service"
DATA = "/var/lib/modelsync"


class Device:
    """A machine that follows the world's hub and serves `anomaly` on `port`."""

    def __init__(self, machine: Machine, world: World, port: int) -> None:
        self.machine, self.world, self.port = machine, world, port

    def until(self, condition: Callable[[], object], what: str, seconds: float = 40.0) -> None:
        """Wait until `condition` holds."""
        try:
            wait_until(condition, what, seconds * self.machine.patience)
        except AssertionError as error:
            said = self.machine.run("journalctl", "-n999", "--no-pager", "-ocat").splitlines()
            told = "\n".join(line for line in said if "Schema error" not in line)
            raise AssertionError(f"{error}\n{self.model()}, {self.served()} is served\n{told[-4000:]}") from None

    def model(self) -> dict[str, Any]:
        """What the daemon, or the disk, says of the model."""
        said = self.machine.run("modelsyncd", "status", "--data", DATA, "--json", check=False)
        try:
            found: dict[str, Any] = json.loads(said)["models"].get("anomaly", {})
        except ValueError:
            return {}
        return found

    def active(self, version: int) -> bool:
        """Whether that version is in service."""
        model = self.model()
        return model.get("version") == version and model.get("state") == "active"

    def served(self) -> int:
        """The version that answers an inference request; 0: none does."""
        probe = json.loads((CHECKOUT / "examples/anomaly/v1/probe.json").read_text())
        tensors = [{"name": name, **tensor} for name, tensor in probe["cases"][0]["inputs"].items()]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v2/models/anomaly/infer",
            json.dumps({"inputs": tensors}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10 * self.machine.patience) as answer:
                return int(json.load(answer)["model_version"])
        except OSError:
            return 0

    def pid(self, unit: str = DAEMON) -> int:
        """The unit's main process; 0: none."""
        return int(self.machine.property(unit, "MainPID"))

    def restarts(self, unit: str = DAEMON) -> int:
        """How often systemd restarted the unit by itself."""
        return int(self.machine.property(unit, "NRestarts"))


@pytest.fixture(scope="session")
def installed(machine: Machine, world: World) -> Device:
    port = free_port()
    key = {"mode": "640", "owner": "root:modelsync"}
    machine.write("/etc/modelsync/connection-string", world.connection_string() + "\n", **key)
    machine.write("/etc/modelsync/root.json", (world.folder / "store/metadata/1.root.json").read_text())
    machine.write("/etc/modelsync/hub-ca.pem", (world.folder / "hub/ca.pem").read_text())
    settings = machine.run("cat", "/etc/modelsync/modelsyncd.toml")
    for name in ("trust", "connection_string_file"):
        settings = settings.replace(f"\n#{name} =", f"\n{name} =")
    more = 'ca = "hub-ca.pem"\nprobation_seconds = 1\n'
    machine.write("/etc/modelsync/modelsyncd.toml", settings + more, **key)
    machine.write("/etc/modelsync/infer/anomaly.env", f"MODELSYNC_INFER_OPTIONS=--port {port}\n")
    world.want(1)
    return Device(machine, world, port)


@pytest.fixture
def device(installed: Device) -> Iterator[Device]:
    """The device as it should be: both units enabled and running, without drop-ins, version 1 or 2 in service."""
    machine = installed.machine
    for unit in (DAEMON, INFER):
        machine.run("rm", "-rf", f"/run/systemd/system/{unit}.d")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed")
    machine.run("systemctl", "enable", "--now", DAEMON, INFER, "modelsync-scrub.timer")
    installed.until(lambda: installed.model().get("state") == "active" and installed.served(), "the device to serve")
    yield installed


def drop_in(machine: Machine, unit: str, text: str) -> None:
    """Change settings of a unit until the next test."""
    machine.write(f"/run/systemd/system/{unit}.d/test.conf", text)
    machine.run("systemctl", "daemon-reload")


def test_starts_tells_that_it_is_ready_and_is_hardened(device: Device) -> None:
    machine = device.machine
    assert machine.property(DAEMON, "SubState") == "running"
    assert machine.property(DAEMON, "StatusText") == f"data in {DATA}", "said by sd_notify"
    assert machine.run("stat", "-c%U:%G %a", DATA, f"{DATA}/daemon.sock").split("\n")[:2] == [
        "modelsync:modelsync 750",
        "modelsync:modelsync 660",
    ]
    units = ["modelsyncd.service", "modelsync-infer@.service", "modelsync-scrub.service", "modelsync-scrub.timer"]
    paths = [f"/usr/lib/systemd/system/{unit}" for unit in units]
    assert machine.run("systemd-analyze", "verify", "--man=no", *paths) == ""
    if machine.patience > 1:
        return  # an emulated machine has no namespaces, so the units are confined less there
    for unit in (DAEMON, INFER, "modelsync-scrub.service"):
        machine.run("systemd-analyze", "security", "--threshold=20", unit)


def test_follows_the_hub_and_inference_swaps(device: Device) -> None:
    if device.model()["version"] == 1:
        assert device.served() == 1
        device.world.publish(CHECKOUT / "examples/anomaly/v2/model.onnx")
        device.world.want(2)
    device.until(lambda: device.active(2), "version 2 to be active")
    device.until(lambda: device.served() == 2, "inference to swap")
    assert device.restarts(INFER) == 0


def test_a_killed_daemon_comes_back_and_knows_its_models(device: Device) -> None:
    before, known, count = device.pid(), device.model(), device.restarts()
    device.machine.run("systemctl", "kill", "--signal=KILL", DAEMON)
    device.until(lambda: device.pid() not in (0, before) and device.restarts() == count + 1, "the daemon to come back")
    device.until(lambda: device.model().get("state") == "active", "it to answer")
    assert {key: device.model()[key] for key in ("version", "digest", "generation")} == {
        key: known[key] for key in ("version", "digest", "generation")
    }


def test_a_daemon_that_hangs_is_restarted_by_the_watchdog(device: Device) -> None:
    seconds = 3 if device.machine.patience == 1 else 30
    drop_in(device.machine, DAEMON, f"[Service]\nWatchdogSec={seconds}s\nTimeoutAbortSec=2s\n")
    device.machine.run("systemctl", "restart", DAEMON)
    before, count = device.pid(), device.restarts()
    device.machine.run("sleep", str(2 * seconds))
    assert (device.pid(), device.restarts()) == (before, count), "a live daemon is left alone"
    device.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", DAEMON)
    device.until(lambda: device.restarts() == count + 1, "the watchdog", 60)
    device.until(lambda: device.model().get("state") == "active", "it to answer")
    assert "Watchdog timeout" in device.machine.journal(DAEMON)


def test_a_crash_loop_ends_in_failed_and_is_tried_again_later(device: Device) -> None:
    machine = device.machine
    known = device.model()["version"]
    machine.write(
        f"/run/systemd/system/{DAEMON}.d/test.conf", "[Service]\nRestartSec=100ms\nExecStart=\nExecStart=/bin/false\n"
    )
    retry = "modelsync-retry@modelsyncd.service.timer"
    machine.write(
        f"/run/systemd/system/{retry}.d/test.conf",
        f"[Timer]\nOnActiveSec=\nOnActiveSec={5 * machine.patience}s\nAccuracySec=1s\n",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", DAEMON, check=False)
    device.until(lambda: machine.property(DAEMON, "ActiveState") == "failed", "the start limit")
    assert machine.property(retry, "ActiveState") == "active"
    assert device.served() == known, "inference goes on"
    machine.run("rm", "-r", f"/run/systemd/system/{DAEMON}.d")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", DAEMON)  # the limit's ten minutes are over, so to say
    device.until(lambda: machine.property(DAEMON, "ActiveState") == "active", "the timer to start it again")
    device.until(lambda: device.active(known), "its state")
    machine.run("rm", "-r", f"/run/systemd/system/{retry}.d")


def test_wrong_settings_are_said_and_not_tried_again(device: Device) -> None:
    machine = device.machine
    drop_in(machine, DAEMON, "[Service]\nExecStart=\nExecStart=/usr/bin/modelsyncd run --config /nowhere.toml\n")
    machine.run("systemctl", "restart", DAEMON, check=False)
    device.until(lambda: machine.property(DAEMON, "ActiveState") == "failed", "it to be given up")
    assert device.restarts() == 0
    assert "/nowhere.toml (--config) can't be read: No such file or directory." in machine.journal(DAEMON)
    machine.run("systemctl", "stop", "modelsync-retry@modelsyncd.service.timer")


def test_inference_serves_and_comes_back_without_a_daemon(device: Device) -> None:
    machine = device.machine
    version = device.served()
    machine.run("systemctl", "stop", DAEMON)
    assert device.served() == version
    before = device.pid(INFER)
    machine.run("systemctl", "kill", "--signal=KILL", INFER)
    device.until(lambda: device.pid(INFER) not in (0, before) and device.served() == version, "inference to come back")
    machine.run("systemctl", "restart", INFER)
    device.until(lambda: device.served() == version, "inference to start where no daemon is")
    assert machine.property(DAEMON, "ActiveState") == "inactive", "it needs no daemon"


def test_the_scrub_finds_damage_and_the_daemon_mends_it(device: Device) -> None:
    machine, version = device.machine, device.served()
    file = machine.run("sh", "-c", f"ls {DATA}/models/anomaly/{version}-*/model.onnx").strip()
    sound = machine.run("sha256sum", file)
    machine.run("sh", "-c", 'printf XX | dd of="$1" bs=1 seek=99 conv=notrunc', "sh", file)
    assert machine.run("sha256sum", file) != sound
    machine.run("systemctl", "start", "modelsync-scrub.service")
    assert "1 damaged." in machine.journal("modelsync-scrub.service")
    device.until(lambda: machine.run("sha256sum", file) == sound, "the file to be whole")
    assert device.served() == version


def test_an_upgrade_restarts_what_runs_and_keeps_state(device: Device) -> None:
    known, before, served = device.model(), device.pid(), device.pid(INFER)
    install(device.machine, "new")
    assert device.machine.run("dpkg-query", "-Wf${Version}", "modelsync-daemon") == NEW
    device.until(lambda: device.pid() not in (0, before) and device.pid(INFER) not in (0, served), "new processes")
    device.until(lambda: device.model().get("state") == "active" and device.served(), "the device to serve")
    assert (device.model()["digest"], device.model()["generation"]) == (known["digest"], known["generation"])
    assert device.machine.property(DAEMON, "UnitFileState") == "enabled"
    assert "probation_seconds = 1" in device.machine.run("cat", "/etc/modelsync/modelsyncd.toml"), "settings stay"


def test_remove_keeps_and_purge_leaves_nothing(installed: Device) -> None:
    """Last: nothing is left to test with."""
    machine = installed.machine
    names = ("modelsync-inference", "modelsync-daemon", "modelsync-common")
    machine.run("dpkg", "--remove", *names, seconds=240)
    assert machine.run("ls", f"{DATA}/models/anomaly").split()
    assert machine.property(DAEMON, "ActiveState") == "inactive"
    machine.run("dpkg", "--purge", *names, seconds=240)
    left = "find / -xdev -path /mnt -prune -o -iname *modelsync* -print"
    assert machine.run(*left.split()).split() == []
    assert "modelsync" not in machine.run("cat", "/etc/passwd", "/etc/group")
    assert "modelsync" not in machine.run("dpkg-query", "-Wf${Package} ")
