"""Containers as a device runs them: not root, on a read-only root file system, with one volume. By podman and runc."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ID = 10001
VOLUME = "/var/lib/modelsync"
# Without systemd, and on kernels without the newer control groups: what the containers are limited by is not the point.
_RUNTIME = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--log-level", "fatal"]
_LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
_SECONDS = 600


def volume(folder: Path) -> Path:
    """An empty directory for a container to keep its data in, as docs/images.md has it made on a device."""
    folder.mkdir()
    subprocess.run(["chown", f"{ID}:{ID}", folder], check=True)
    folder.chmod(0o750)
    return folder


def _options(data: Path | None, mounts: dict[Path, str], environment: dict[str, str]) -> list[str]:
    options = [*_LIMITS, "--network", "host", "--read-only", "--read-only-tmpfs=false", "--pull", "never"]
    if data is not None:
        options += ["--volume", f"{data}:{VOLUME}"]
    for source, place in mounts.items():
        options += ["--volume", f"{source}:{place}:ro"]
    for key, value in environment.items():
        options += ["--env", f"{key}={value}"]
    return options


def run(
    image: str,
    *command: str,
    data: Path | None = None,
    mounts: dict[Path, str] | None = None,
    environment: dict[str, str] | None = None,
    options: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run one command in a new container, to its end."""
    line = ["podman", *_RUNTIME, "run", "--rm", *_options(data, mounts or {}, environment or {}), *options]
    return subprocess.run([*line, image, *command], capture_output=True, text=True, timeout=_SECONDS, check=False)


class Container:
    """One that runs in the background until `stop`."""

    def __init__(
        self, name: str, image: str, *command: str, data: Path, mounts: dict[Path, str], environment: dict[str, str]
    ) -> None:
        self.name = name
        subprocess.run(["podman", *_RUNTIME, "rm", "--force", "--ignore", name], capture_output=True, check=False)
        line = ["podman", *_RUNTIME, "run", "--detach", "--name", name, *_options(data, mounts, environment)]
        done = subprocess.run([*line, image, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name} does not start: {done.stderr.strip()}"

    @property
    def log(self) -> str:
        """All that it wrote."""
        done = subprocess.run(["podman", *_RUNTIME, "logs", self.name], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    @property
    def running(self) -> bool:
        """Whether its first process lives."""
        inspect = ["podman", *_RUNTIME, "inspect", "--format", "{{.State.Running}}", self.name]
        return subprocess.run(inspect, capture_output=True, text=True, check=False).stdout.strip() == "true"

    def healthy(self) -> bool:
        """Run the image's own health check once."""
        line = ["podman", *_RUNTIME, "healthcheck", "run", self.name]
        return subprocess.run(line, capture_output=True, check=False, timeout=_SECONDS).returncode == 0

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        line = ["podman", *_RUNTIME, "exec", self.name, *command]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=_SECONDS)

    def stop(self) -> int:
        """Stop it as a device does, by its stop signal; its exit code (137: it had to be killed)."""
        subprocess.run(["podman", *_RUNTIME, "stop", "--time", "60", self.name], capture_output=True, check=False)
        inspect = ["podman", *_RUNTIME, "inspect", "--format", "{{.State.ExitCode}}", self.name]
        code = subprocess.run(inspect, capture_output=True, text=True, check=False).stdout.strip()
        self.remove()
        return int(code or -1)

    def remove(self) -> None:
        """Whatever state it is in."""
        subprocess.run(["podman", *_RUNTIME, "rm", "--force", "--ignore", self.name], capture_output=True, check=False)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 300) -> None:
        """Wait for something that this container does; AssertionError with its log."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running, f"{self.name} ended before {what}:\n{self.log[-3000:]}"
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}:\n{self.log[-3000:]}"
            time.sleep(0.3)
