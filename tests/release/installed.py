"""Clean virtual environments that get our wheels from a folder, and commands run in them with no network at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from deploy.release.versions import ROOT, ReleaseError

PINS = ROOT / "requirements" / "install.txt"
_LOOPBACK_ONLY = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")


def wheelhouse() -> Path:
    """The folder of all that our wheels need, as wheels; filled by hash from the index once for each install.txt."""
    digest = hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "modelsync" / f"install-{digest}"
    if not (folder / "done").exists():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        # `wheel`, not `download`: paho-mqtt 1.6 is only there as sources.
        run([*pip, "wheel", "--no-deps", "--require-hashes", "-r", str(PINS), "-w", str(folder)])
        (folder / "done").touch()
    return folder


def loopback_only() -> tuple[str, ...]:
    """What to put before a command so that it sees nothing but 127.0.0.1. ReleaseError: this machine forbids it."""
    try:
        run([*_LOOPBACK_ONLY, "true"])
    except ReleaseError as error:
        raise ReleaseError(f"a network namespace can't be made here, so nothing would be proved: {error}") from error
    return _LOOPBACK_ONLY


class Environment:
    """A virtual environment with one requirement of ours installed; nothing of the checkout is seen in it."""

    def __init__(self, folder: Path, requirements: list[str], wheels: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=True, symlinks=True)
        places = ["--find-links", str(wheels), "--find-links", str(wheelhouse())]
        pip = [str(self.program("python")), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        self.run([*pip, "install", "--no-index", *places, *requirements])
        self.run([*pip, "check"])

    def program(self, name: str) -> Path:
        """The path of a program in it."""
        return self.folder / "bin" / name

    def programs(self) -> list[str]:
        """Our commands in it, by name."""
        return sorted(path.name for path in (self.folder / "bin").glob("modelsync*"))

    def run(self, command: list[str], cwd: Path | None = None) -> str:
        """What the command prints, run without a network. ReleaseError with its words if it fails."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "VIRTUAL_"))
        }
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return run([*loopback_only(), *command], cwd=cwd or self.folder, environment={**kept, "PATH": path})

    def python(self, code: str, cwd: Path | None = None) -> str:
        """What a Python program prints."""
        return self.run([str(self.program("python")), "-I", "-c", code], cwd)


def run(command: list[str], cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Output of a command and of its children; ReleaseError if it fails or takes ten minutes."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[-4:])} ended with {done.returncode}: {done.stderr[-2000:].strip()}")
    return done.stdout
