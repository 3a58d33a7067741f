"""What building images takes of this machine: tools, and Debian base systems. Needs root.

A base system is what the public image debian:trixie-slim is, made by mmdebstrap from the mirror that this machine
itself installs from, so that no registry is needed. It is made once and kept in the user's cache folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import debian_root
from tests.support.debian_root import RootMissing

_TOOLS = ("arch-test", "buildah", "mmdebstrap", "podman", "runc", "skopeo")
_PACKAGES = (*_TOOLS, "qemu-user-static", "debian-archive-keyring")


@dataclass(frozen=True, slots=True)
class Architecture:
    """`debian`: its name there. `platform`: as builders of images call it. `emulated`: whether qemu runs it."""

    debian: str
    platform: str
    emulated: bool


_PLATFORMS = {"armhf": "linux/arm/v7", "arm64": "linux/arm64", "amd64": "linux/amd64"}
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
ARCHITECTURES = {name: Architecture(name, platform, name != NATIVE) for name, platform in _PLATFORMS.items()}


def cache() -> Path:
    """Where base systems are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsync" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def install_tools() -> None:
    """Install what is missing; RootMissing."""
    if os.getuid() != 0:
        raise RootMissing("building images takes mounts and an emulator: run this as root.")
    if all(map(shutil.which, (*_TOOLS, "qemu-arm-static"))):
        return
    if shutil.which("apt-get") is None:
        raise RootMissing(f"install {', '.join(_PACKAGES)}; there is no apt-get here.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-o", "DPkg::Lock::Timeout=600", "-qq", "-y"]
    for command in (
        ["apt-get", "update", *options],
        ["apt-get", "install", "--no-install-recommends", *options, *_PACKAGES],
    ):
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            raise RootMissing(f"`{' '.join(command)}` failed; mend this system's package sources.")


def base(architecture: Architecture) -> Path:
    """The tar archive of the base system, from the cache or made now (one to five minutes). RootMissing."""
    kept = cache() / f"trixie-{architecture.debian}.tar"
    if not kept.exists():
        making = kept.with_suffix(f".{os.getpid()}.tar")
        try:
            licences = "--dpkgopt=path-include=/usr/share/doc/*/copyright"
            what = (f"--architectures={architecture.debian}", "--include=ca-certificates", licences)
            debian_root.mmdebstrap(making, "--variant=minbase", *what)
            making.rename(kept)
        finally:
            making.unlink(missing_ok=True)
    return kept
