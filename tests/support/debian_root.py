"""A root file system of Debian trixie with systemd and what our packages depend on; made once and kept. Needs root.

Programs of a foreign architecture run by qemu-user: `emulated` registers it with the kernel for a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    "systemd,systemd-sysv,dbus,python3,python3-numpy,python3-zstandard,python3-aiohttp,"
    "python3-cryptography,python3-onnxruntime,python3-watchdog,python3-prometheus-client,python3-requests,"
    "python3-seccomp,python3-socks,python3-typing-extensions,python3-packaging"
)
_SUITE, _ALIAS = "trixie", "stable"
"""A mirror that is being synchronised may have a consistent state under the second name only."""

_SECONDS = 3000
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_QEMU = {"armhf": "arm", "arm64": "aarch64"}


_EMULATED = """# qemu-user can't make mount and user namespaces; the other architecture's machine proves those.
[Service]
ImportCredential=
LoadCredential=
PrivateUsers=no
PrivateTmp=no
PrivateDevices=no
PrivateIPC=no
PrivateMounts=no
PrivateNetwork=no
ProtectSystem=no
ProtectHome=no
ProtectProc=default
ProcSubset=all
ProtectHostname=no
ProtectKernelTunables=no
ProtectKernelModules=no
ProtectKernelLogs=no
ProtectControlGroups=no
ReadWritePaths=
"""


class RootMissing(Exception):
    """No root can be made or run here; the message says why."""


def make_root(architecture: str) -> Path:
    """The folder of the root, from the user's cache folder or made now (minutes). Raises RootMissing."""
    if os.getuid() != 0:
        raise RootMissing("booting a container needs root.")
    for tool in ("mmdebstrap", "systemd-nspawn", "nsenter"):
        if shutil.which(tool) is None:
            raise RootMissing(f"{tool} is missing (Debian packages mmdebstrap, systemd-container, util-linux).")
    key = hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]
    cache = _cache()
    root = cache / f"{_SUITE}-{architecture}-{key}"
    if not root.is_dir():
        fresh = cache / f"{root.name}.making-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            mmdebstrap(fresh, "--variant=minbase", f"--architectures={architecture}", f"--include={PACKAGES}")
            if architecture in _QEMU:
                limits = fresh / "etc/systemd/system/service.d/emulated.conf"
                limits.parent.mkdir(parents=True)
                limits.write_text(_EMULATED)
            with contextlib.suppress(OSError):  # somebody else was faster
                fresh.rename(root)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return root


def mmdebstrap(target: Path, *what: str) -> None:
    """Make a system of the suite at `target`, a new folder or tar archive, as `what` says. Raises RootMissing."""
    options = [f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("doc", "man", "locale")]
    options += what  # of dpkg's path rules the last one that fits holds
    own = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    for line in own.splitlines():  # how this system fetches packages (proxy, dates) holds for the root's packages too
        if line.startswith(("Acquire::http", "Acquire::Check-", "Acquire::Retries")):
            options.append(f"--aptopt={line}")
    release = f"! test -e $1/etc/os-release || grep -q VERSION_CODENAME={_SUITE} $1/etc/os-release"
    command = ["nice", "mmdebstrap", "--quiet", "--mode=root", f"--customize-hook={release}", *options]
    said = ""
    for suite in (_SUITE, _ALIAS):
        making = [*command, suite, str(target), _mirror()]
        done = subprocess.run(making, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode == 0:
            return
        said = " ".join(done.stderr.split()[-60:])
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    raise RootMissing(f"mmdebstrap failed: {said}")


def _mirror() -> str:
    """The mirror that this system itself installs Debian from (not the security one), else Debian's own."""
    wanted = ("Created-By: Packages", "Origin: Debian", "Label: Debian")
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return sorted(found)[0] if found else "http://deb.debian.org/debian"


def _emulator(machine: str) -> Path:
    """The suite's own qemu-user, unpacked only: systemd's way to start processes is beyond that of Debian 12."""
    folder = _cache() / f"{_SUITE}-qemu-user"
    if not folder.is_dir():
        fresh = folder.with_name(f"{folder.name}.making-{os.getpid()}")
        try:
            mmdebstrap(fresh, "--variant=extract", "--include=qemu-user")
            with contextlib.suppress(OSError):  # somebody else was faster
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder / "usr/bin" / f"qemu-{machine}"


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsync" / "systemd"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def emulated(architecture: str) -> Iterator[None]:
    """Let the kernel run programs of `architecture`, and take everything back at the end. Raises RootMissing."""
    machine = _QEMU.get(architecture)
    if machine is None:
        yield
        return
    rules = Path(f"/usr/lib/binfmt.d/qemu-{machine}.conf")
    if not rules.is_file():
        raise RootMissing(f"qemu for {architecture} is missing (Debian package qemu-user-static).")
    emulator = _emulator(machine)
    mounted = not (_BINFMT / "register").exists()
    if mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], check=True)
    name = f"modelsync-{machine}-{os.getpid()}"  # a name of our own: others may register and unregister theirs
    rule = next(line for line in rules.read_text().splitlines() if line.startswith(":"))
    try:
        magic = rule.split(":", 2)[2].rsplit(":", 2)[0]
        (_BINFMT / "register").write_text(f":{name}:{magic}:{emulator}:OCF")
        try:
            yield
        finally:
            (_BINFMT / name).write_text("-1")
    finally:
        if mounted:
            subprocess.run(["umount", str(_BINFMT)], check=False)
