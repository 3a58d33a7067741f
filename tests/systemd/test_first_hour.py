"""docs/raspberry-pi.md is followed as it is printed, on a blank booted system; there the idle daemon is measured."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import idle
from tests.support.addresses import free_port, loopback_address
from tests.support.budgets import within
from tests.support.guest_memory import memory
from tests.support.machine import Machine
from tests.support.waiting import wait_until
from tests.systemd.conftest import CHECKOUT

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

PAGE = CHECKOUT / "docs" / "raspberry-pi.md"
BLOCK = re.compile(r"(?:<!-- tested on the (PC|Pi) -->\n)?```(sh)?\n(.*?)```", re.DOTALL)
IDLE_SECONDS = 60
BUDGETS = {"armhf": 45, "amd64": 60}
"""MiB of the idle daemon."""


def blocks() -> Iterator[tuple[str, str]]:
    """Where each tested block runs, and what it says."""
    for place, kind, text in BLOCK.findall(PAGE.read_text()):
        assert bool(place) == bool(kind), f"a block that is marked in one way only: {text}"
        if place:
            yield place, text


class Hour:
    """The PC is this machine (`folder` stands for the checkout), the Pi is `machine`; both have the same network."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        for name in ("examples", "deploy"):
            (folder / name).symlink_to(CHECKOUT / name)
        self._ports = {port: str(free_port()) for port in ("8080", "8123")}
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PC": loopback_address(),
        }
        self._started: list[subprocess.Popen[str]] = []

    def follow(self) -> str:
        """Run every block in its place, in the page's order; what the last one said."""
        said = ""
        for place, text in blocks():
            for printed, free in self._ports.items():
                text = text.replace(printed, free)
            said = self._pc(text) if place == "PC" else self._pi(text)
        return said

    def _pc(self, text: str) -> str:
        text = text.replace("deploy/deb/build --output packages", f"cp -r {self.folder}/built packages")
        process = subprocess.Popen(
            ["bash", "-ec", text],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "pc.log").open("a"),
            text=True,
            start_new_session=True,
        )
        self._started.append(process)  # what it left in the background is ended with its group
        assert process.stdout is not None
        if "> origin.json &" in text or "> hub.json &" in text:
            assert process.wait(60) == 0, text
            return ""
        said, _ = process.communicate(timeout=120 * self.machine.patience)
        assert process.returncode == 0, f"{text}\n{said}\n{(self.folder / 'pc.log').read_text()[-2000:]}"
        return said

    def _pi(self, text: str) -> str:
        self.machine.run("mkdir", "-p", "/root/first-hour")
        if "apt-get install" in text:
            self._copy()
        return self.machine.run("sh", "-ec", f"cd /root/first-hour\n{text}", seconds=240)

    def _copy(self) -> None:
        """Stands for scp."""
        self.machine.run("sh", "-ec", "cp /mnt/*/old/*.deb /root/first-hour/")
        for source in ("store/metadata/1.root.json", "connection-string", "hub/ca.pem"):
            text = (self.folder / source).read_text()
            self.machine.write(f"/root/first-hour/{Path(source).name}", text)

    def close(self) -> None:
        """End what the blocks left running."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def hour(machine: Machine, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hour]:
    """A blank system: nothing of ours is installed."""
    if shutil.which("curl") is None:
        pytest.fail("curl is missing")
    names = ("modelsync-inference", "modelsync-daemon", "modelsync-common")
    machine.run("dpkg", "--purge", *names, seconds=240)
    folder = tmp_path_factory.mktemp("first-hour")
    (folder / "built").symlink_to(packages / "old")
    made = Hour(machine, folder)
    try:
        yield made
    finally:
        made.close()


def test_the_first_hour_ends_with_a_served_model_that_updates_itself(hour: Hour) -> None:
    said = hour.follow()
    assert '"model_version"' in said, "the last block asks the new version"


def test_the_idle_daemon_is_small_and_sleeps(hour: Hour) -> None:
    """The processes of modelsyncd.service, seen from this machine's kernel; of emulated ones their own pages only."""
    machine, emulated = hour.machine, hour.machine.patience > 1
    architecture = machine.run("dpkg", "--print-architecture").strip()
    where, budget = f"Debian trixie {architecture}", BUDGETS[architecture]
    pids = machine.processes("modelsyncd.service")
    assert pids, "the daemon runs"
    wait_until(lambda: len(machine.processes("modelsyncd.service")) <= 2, "the update's child to end", 120)
    time.sleep(5 * machine.patience)
    pids = machine.processes("modelsyncd.service")
    before = sum(idle.usage(pid)[0] for pid in pids)
    time.sleep(IDLE_SECONDS)
    wakeups = (sum(idle.usage(pid)[0] for pid in pids) - before) / IDLE_SECONDS
    measured = [memory(pid, emulated) for pid in pids]
    main = max(one.resident for one in measured) / 1024
    together = sum(one.proportional for one in measured) / 1024
    within(f"resident memory of the idle daemon, {where}", main, budget, "MiB", where)
    within(f"memory of all processes of the idle daemon (Pss), {where}", together, budget, "MiB", where)
    within(f"wake-ups of the idle daemon, {where}", wakeups, 2, "a second", where)
