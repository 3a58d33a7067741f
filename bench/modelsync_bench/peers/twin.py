"""modelsync as it runs in the field: a daemon that is connected to its hub, and is told by its twin, or gets a push."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelsync_bench.lab import LabError, quiet
from modelsync_bench.peers.modelsync import NAME, Modelsync, program
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import StepFailed, Used, server
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog

_HUB_PORT, _SERVICE_PORT = 8883, 9443
_DEVICE = "d"
_SETTLE_SECONDS = 60.0
_WAIT = """
import json, sys, time
pointer, version, end = sys.argv[1], int(sys.argv[2]), time.monotonic() + 300
while time.monotonic() < end:
    if json.load(open(pointer))["version"] == version:
        sys.exit(0)
    time.sleep(0.005)
sys.exit("the version was not activated within 300 s")
"""


class Twin(Modelsync):
    """The desired version is set in the twin; the daemon hears of it, fetches, activates and reports."""

    name = "modelsync-twin"
    method = (
        "a running modelsyncd whose hub connection is open: the twin's notice and reading, TUF bundle and update from "
        "modelsync serve, and the reports, all counted"
    )

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        """The origin; and the hub, on a state that each serving makes anew."""
        with super().serve(site, job) as log:
            if not (site.folder(self.name, job) / ".published").exists():
                yield log  # while publishing, devices are prepared without a hub
                return
            if site.lab.counter == "relay":
                raise LabError(
                    "the hub's port is fixed, so its line is counted in a network namespace only: run as root."
                )
            state = site.scratch / f"hub-{time.monotonic_ns()}"
            command = [program("modelsync"), "hub", "--state", str(state), "--host", site.lab.server_host]
            out = site.scratch / "hub.log"
            with server(site.lab, [*command, "--service-port", str(_SERVICE_PORT)], out, port=_SERVICE_PORT):
                self._state = state
                yield log

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        assert job.held is not None, "a device that follows a twin holds something already"
        with super().hold(job, site, device):
            text = self._on_server(site, "hub", "device", "add", _DEVICE).strip()
            self._desire(site, {"origin": self.origin(site, job), "models": {NAME: {"version": job.held + 1}}})
            configuration = device / "modelsyncd.toml"
            configuration.write_text(
                f'data = "{device / "data"}"\norigin_ca = "{site.certificates.ca}"\nca = "{self._state / "ca.pem"}"\n'
                f'connection_string = "{text}"\n'
            )
            with (device / "daemon.log").open("wb") as log:
                daemon = subprocess.Popen(
                    site.lab.on_device([program("modelsyncd"), "run", "--config", str(configuration)]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            try:
                self._active(site, job.held + 1)
                quiet(site.lab, 2.0)
                self._pid, self._cpu = daemon.pid, _cpu(daemon.pid)
                yield
            finally:
                daemon.terminate()
                try:
                    daemon.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    os.killpg(daemon.pid, 9)
                    daemon.wait()

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        """Say it to the twin, and wait on the device for the pointer to move."""
        if not hasattr(self, "_state"):
            return super().steps(job, site, device)
        self._tell(job, site)
        pointer = device / "data" / "models" / NAME / "current.json"
        return [[sys.executable, "-I", "-S", "-c", _WAIT, str(pointer), str(len(job.versions))]]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        """Until the hub has the report."""
        self._active(site, len(job.versions))
        quiet(site.lab, 2.0)

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        """The daemon keeps no account of bodies for its twin's updates, so only the line's bytes are known."""
        return Account(None, None, _memory(self._pid), _cpu(self._pid) - self._cpu)

    def _tell(self, job: Job, site: Site) -> None:
        self._desire(site, {"models": {NAME: {"version": len(job.versions)}}})

    def _desire(self, site: Site, section: dict[str, Any]) -> None:
        self._on_server(site, "twin", "set", _DEVICE, json.dumps({"modelsync": section}))

    def _active(self, site: Site, version: int) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            twin = json.loads(self._on_server(site, "twin", "get", _DEVICE))
            reported = twin.get("properties", twin).get("reported", {}).get("modelsync", {})
            model = reported.get("models", {}).get(NAME, {})
            if model.get("state") == "active" and model.get("version") == version:
                return
            time.sleep(0.2)
        raise StepFailed(f"the daemon did not report version {version} as active; it reports {model}")

    def _on_server(self, site: Site, *argv: str) -> str:
        command = [program("modelsync"), *argv, "--state", str(self._state)]
        done = subprocess.run(site.lab.on_server(command), capture_output=True, text=True)
        if done.returncode:
            raise StepFailed(f"`modelsync {' '.join(argv[:2])}` failed: {done.stderr.strip()[-400:]}")
        return done.stdout


class Push(Twin):
    """The update travels over the hub's open connection: no other is made."""

    name = "modelsync-push"
    method = "as modelsync-twin, but modelsync push sends trust and update over the open hub connection"

    def _tell(self, job: Job, site: Site) -> None:
        self._on_server(site, "push", str(site.folder(self.name, job) / "store"), NAME, _DEVICE)


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        below = [int(child) for child in children.read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(one for child in below for one in _family(child))]


def _cpu(pid: int) -> float:
    """CPU seconds of a process, its children and those that have ended."""
    ticks = 0
    for one in _family(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    """Peak resident bytes of the largest of a process and its children that live."""
    peaks = [0]
    for one in _family(pid):
        try:
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
        except OSError:
            continue
        peaks += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return max(peaks)
