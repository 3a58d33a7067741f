"""What building and running images takes of this machine: tools, Debian base systems, an emulator. Needs root.

A base system is what the public image debian:trixie-slim is, made by mmdebstrap from the mirror that this machine
itself installs from, so that no registry is needed. It is made once and kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SUITES = ("trixie", "stable")
"""By its name first; a mirror that is being synchronised may have a consistent state under the other only."""

_CODENAME = "trixie"
_TOOLS = ("arch-test", "buildah", "mmdebstrap", "podman", "runc", "skopeo")
_PACKAGES = (*_TOOLS, "qemu-user-static", "debian-archive-keyring")
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_SECONDS = 1500


class CannotRun(Exception):
    """This machine can't do it; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """`debian`: its name there. `platform`: as builders of images call it. `emulator`: qemu's name, "" for none."""

    debian: str
    platform: str
    emulator: str


ARCHITECTURES = {
    item.debian: item
    for item in (
        Architecture("armhf", "linux/arm/v7", "arm"),
        Architecture("arm64", "linux/arm64", "aarch64"),
        Architecture("amd64", "linux/amd64", ""),
    )
}


def cache() -> Path:
    """Where base systems are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsync" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def install_tools() -> None:
    """Install what is missing; CannotRun."""
    if os.getuid() != 0:
        raise CannotRun("building images takes mounts and an emulator: run this as root.")
    if all(map(shutil.which, (*_TOOLS, "qemu-arm-static"))):
        return
    if shutil.which("apt-get") is None:
        raise CannotRun(f"install {', '.join(_PACKAGES)}; there is no apt-get here.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-o", "DPkg::Lock::Timeout=600", "-qq", "-y"]
    for command in (
        ["apt-get", "update", *options],
        ["apt-get", "install", "--no-install-recommends", *options, *_PACKAGES],
    ):
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            raise CannotRun(f"`{' '.join(command)}` failed; mend this system's package sources.")


def base(architecture: Architecture) -> Path:
    """The tar archive of the base system, from the cache or made now (one to five minutes). CannotRun."""
    kept = cache() / f"{_CODENAME}-{architecture.debian}.tar"
    if kept.exists():
        return kept
    options = [f"--architectures={architecture.debian}", "--include=ca-certificates"]
    options += [f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("man", "locale", "doc")]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    configured = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    for line in configured.splitlines():  # how this system fetches packages holds for the base system as well
        if line.startswith(("Acquire::http", "Acquire::Check-", "Acquire::Retries")):
            options.append(f"--aptopt={line}")
    options.append(f"--customize-hook=grep -q VERSION_CODENAME={_CODENAME} $1/etc/os-release")
    making, said = kept.with_suffix(f".{os.getpid()}.tar"), ""
    try:
        for suite in _SUITES:
            command = ["nice", "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", *options, suite]
            done = subprocess.run([*command, making, _mirror()], capture_output=True, text=True, timeout=_SECONDS)
            if done.returncode == 0:
                making.rename(kept)
                return kept
            said = " ".join(done.stderr.split()[-60:])
        raise CannotRun(f"mmdebstrap could not make the base system: {said}")
    finally:
        making.unlink(missing_ok=True)


def _mirror() -> str:
    """The mirror that this system itself installs Debian from (not the security one), else Debian's own."""
    wanted = ("Created-By: Packages", "Origin: Debian", "Label: Debian")
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return sorted(found)[0] if found else "http://deb.debian.org/debian"


@contextlib.contextmanager
def emulated(architecture: Architecture) -> Iterator[None]:
    """Let the kernel run programs of `architecture`, and take everything back at the end. CannotRun."""
    if not architecture.emulator:
        yield
        return
    rules = Path(f"/usr/lib/binfmt.d/qemu-{architecture.emulator}.conf")
    if not rules.exists():
        raise CannotRun(f"{rules} is missing: install qemu-user-static.")
    mounted = not (_BINFMT / "register").exists()
    if mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT], check=True)
    name = f"modelsync-images-{os.getpid()}"  # our own, whoever else registers one
    rule = next(line for line in rules.read_text().splitlines() if line.startswith(":"))
    (_BINFMT / "register").write_text(f":{name}:" + rule.split(":", 2)[2])
    try:
        yield
    finally:
        (_BINFMT / name).write_text("-1")
        if mounted and not {entry.name for entry in _BINFMT.iterdir()} - {"register", "status"}:
            subprocess.run(["umount", _BINFMT], check=False)
