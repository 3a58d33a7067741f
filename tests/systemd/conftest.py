"""What the boots need, made once: packages in two versions, a machine that runs, and a hub and an origin to follow."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.addresses import loopback_address
from tests.support.debian_root import RootMissing, emulated, make_root
from tests.support.machine import Machine
from tests.support.waiting import PATIENCE_SECONDS

CHECKOUT = Path(__file__).parents[2]
OLD, NEW = "0.1.0", "0.1.1~test"
"""Versions of the packages; the content is the same."""

_EMULATION = 8.0
"""How much longer things may take under qemu-user."""


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages: `old/` and `new/`."""
    if shutil.which("dh") is None or shutil.which("dpkg-buildpackage") is None:
        missing("debhelper or dpkg-dev is missing")
    folder = tmp_path_factory.mktemp("packages")
    for name, version in (("old", OLD), ("new", NEW)):
        subprocess.run(
            [CHECKOUT / "deploy/deb/build", "--version", version, "--output", folder / name],
            check=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )
    return folder


@pytest.fixture(scope="session", params=["amd64", "armhf"])
def machine(
    request: pytest.FixtureRequest, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A booted machine with the old packages installed."""
    architecture = request.param
    log = tmp_path_factory.mktemp("machine") / f"{architecture}.log"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(emulated(architecture))
            root = make_root(architecture)
        except RootMissing as error:
            missing(str(error))
        patience = 1.0 if architecture == "amd64" else _EMULATION
        booted = stack.enter_context(Machine(root, log, [packages], patience))
        said = install(booted, "old")
        assert "systemctl enable --now modelsyncd.service" in said, "who installs must be told what comes next"
        yield booted


def install(machine: Machine, version: str) -> str:
    """Install the packages of `old` or `new`, without any network; what dpkg said."""
    return machine.run("sh", "-c", f"dpkg -i /mnt/*/{version}/*.deb", seconds=300)


def missing(reason: str) -> None:
    """A boot is not possible here: said loudly, and an error where everything was to be installed."""
    if os.environ.get("CI"):
        pytest.fail(f"not booted: {reason}")
    pytest.skip(f"LOUD: not booted: {reason}")


class World:
    """A publisher, an origin and a hub on this machine, with one device `pi`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = str(folder / "store")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.origin = ""

    def start(self) -> None:
        """Start hub and origin; version 1 of `anomaly` is there."""
        self.command("init", self.store, "--keys", str(self.folder / "keys"))
        self.publish(CHECKOUT / "examples/anomaly/v1/model.onnx")
        self._serve("hub", "--state", str(self.folder / "hub"), "--host", loopback_address(), "--service-port", "0")
        self.origin = self._serve("serve", self.store, "--port", "0")["url"]

    def stop(self) -> None:
        """End hub and origin."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(PATIENCE_SECONDS)

    def publish(self, path: Path) -> None:
        """Publish the next version of `anomaly`."""
        self.command("publish", self.store, "anomaly", str(path), "--keys", str(self.folder / "keys"))

    def want(self, version: int) -> None:
        """Set the desired version."""
        desired = {"modelsync": {"origin": self.origin, "models": {"anomaly": {"version": version}}}}
        self.command("twin", "set", "pi", "--state", str(self.folder / "hub"), json.dumps(desired))

    def connection_string(self) -> str:
        """The device's, made now."""
        return self.command("hub", "device", "add", "pi", "--state", str(self.folder / "hub")).strip()

    def command(self, *arguments: str) -> str:
        """Run `modelsync`; its stdout."""
        command = [str(Path(sys.executable).with_name("modelsync")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    def _serve(self, *arguments: str) -> dict[str, str]:
        command = [str(Path(sys.executable).with_name("modelsync")), *arguments]
        with (self.folder / f"{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self._processes.append(process)
        assert process.stdout is not None
        document: dict[str, str] = json.loads(process.stdout.readline())
        return document


@pytest.fixture(scope="session")
def world(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything that a device follows, and the machine is set up as that device."""
    made = World(tmp_path_factory.mktemp("world"))
    try:
        made.start()
        yield made
    finally:
        made.stop()
