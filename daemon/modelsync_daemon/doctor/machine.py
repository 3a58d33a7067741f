"""The doctor's look at this machine: the settings' secrets, the clock, free space, the daemon and its models."""

from __future__ import annotations

import contextlib
import shutil
import stat
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

from modelsync_daemon.config import Settings
from modelsync_daemon.confinement import layers
from modelsync_daemon.disk.datadir import RESERVE_BYTES, DataDir
from modelsync_daemon.local import socket_client
from modelsync_daemon.network import network_manager
from modelsync_daemon.trust.trust_store import BUILD_TIME, TrustStore
from modelsync_protocol.errors import LocalError, ModelsyncError
from modelsync_protocol.findings import Finding, good, problem, warning
from modelsync_protocol.native import library

_MIB = 1 << 20
_SKEW_SECONDS = 60


def secrets(settings: Settings, config_file: Path | None) -> Iterator[Finding]:
    """Files that hold a secret must not be readable by everybody."""
    files = [
        settings.connection_string_file,
        settings.dps_key_file,
        settings.control_password_file,
        settings.x509_key,
        settings.origin_sas_file,
    ]
    if config_file is not None and (settings.connection_string or (settings.proxy and "@" in settings.proxy)):
        files.append(config_file)
    for path in filter(None, files):
        with contextlib.suppress(OSError):  # that it can't be read is said where it is needed
            if stat.S_IMODE(path.stat().st_mode) & 0o004:
                yield warning(
                    "secrets", f"{path} holds a secret and everybody may read it.", f"chmod o= {quote(str(path))}"
                )


def clock(data: DataDir) -> Iterator[Finding]:
    """A clock behind what was signed is wrong; the daemon goes on by the signed time, TLS does not."""
    try:
        floor = TrustStore(data.trust).time_floor
    except LocalError as error:
        yield problem("clock", str(error), f"ls -l {quote(str(data.trust))}", error.exit_code)
        return
    now, least = time.time(), max(floor, BUILD_TIME)
    shown = _utc(now)
    if now + _SKEW_SECONDS < least:
        text = f"this device's clock says {shown}, but it is {_utc(least)} at least: certificates will not be valid."
        yield problem("clock", text, "timedatectl set-ntp true", 5)
    else:
        yield good("clock", f"the clock ({shown}) is not behind what was signed.")


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def core() -> Iterator[Finding]:
    """Whether workers decode with the compiled core."""
    fine, text = library.which()
    mend = "install modelsync-core of this version again, or take the variable MODELSYNC_CORE away"
    yield good("core", text) if fine else warning("core", text, mend)


def confinement(required: bool) -> Iterator[Finding]:
    """Whether workers, which read what the origin sends, can be kept from everything else."""
    found = layers.available()
    for sentence in found.lacking:
        mend = "apt install python3-seccomp" if sentence == layers.NO_SECCOMP else None
        yield problem("confinement", sentence, mend, 3) if required else warning("confinement", sentence, mend)
    if not found.lacking:
        yield good("confinement", f"workers are confined by Landlock (version {found.landlock}) and seccomp.")


def room(data: DataDir) -> Iterator[Finding]:
    """Free space for one more version of the largest installed model, beside the reserve."""
    need = max((_size(item.path) for name in data.model_names() for item in data.installed(name)), default=0)
    try:
        usage = shutil.disk_usage(data.root)
    except OSError as error:
        yield problem("disk", f"{data.root} can't be measured: {error.strerror}.", "dmesg", 5)
        return
    text = f"{data.root} has {usage.free // _MIB:,} MiB free; the largest model has {need:,} bytes"
    if usage.free < need + RESERVE_BYTES:
        yield problem("disk", f"{text}: a new version has no room.", f"modelsyncd gc --data {quote(str(data.root))}", 5)
    else:
        yield good("disk", f"{text}.")


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        total = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return total


def daemon(data: DataDir) -> Iterator[Finding]:
    """Whether a daemon runs, answers this user, and is the installed one; and what its models complain of."""
    try:
        status = socket_client.call(data.socket, "GET", "/v1/status")
    except socket_client.NoDaemon:
        if data.socket.exists():
            text = f"{data.socket} is there, and nobody listens: the daemon was killed, or is about to start."
            yield warning("socket", text, "systemctl restart modelsyncd")
        else:
            yield warning("socket", "no daemon runs on this directory.", "systemctl start modelsyncd")
        return
    except ModelsyncError as error:
        group = f'usermod --append --groups {_group(data.socket)} "$USER"'
        mend = group if isinstance(error, LocalError) else "journalctl --unit modelsyncd"
        yield problem("socket", str(error), mend, error.exit_code)
        return
    runs, installed = str(status["daemon"]["version"]), version("modelsync-daemon")
    if runs != installed:
        text = f"modelsyncd {runs} runs, and {installed} is installed."
        yield warning("socket", text, "systemctl restart modelsyncd")
    else:
        yield good("socket", f"modelsyncd {runs} runs and answers.")
    yield from _models(status, data)
    yield from _network(status)


def libraries(settings: Settings) -> Iterator[Finding]:
    """What the settings ask for and is not installed."""
    if any(rule.asks_network_manager for rule in settings.networks) and not network_manager.installed():
        yield warning("network", network_manager.NO_LIBRARY, "apt install python3-jeepney")
    if settings.site_discover and find_spec("zeroconf") is None:
        yield problem("site", "site_discover is set, and zeroconf is not installed.", "apt install python3-zeroconf", 2)


def _network(status: dict[str, Any]) -> Iterator[Finding]:
    """Which network rule is in force, as the daemon last judged."""
    network = status.get("network")
    if network is None:
        return
    if network.get("problem"):
        lacking = network["problem"] == network_manager.NO_LIBRARY
        yield warning("network", network["problem"], "apt install python3-jeepney" if lacking else "nmcli general")
    elif network["interface"] is None:
        yield warning("network", "no network leads to the origin now: nothing is fetched.", "ip route")
    else:
        rule = f"the network rule {network['rule']} is" if network["rule"] else "no network rule is"
        yield good("network", f"{rule} in force on {network['interface']}.")


def _models(status: dict[str, Any], data: DataDir) -> Iterator[Finding]:
    for name, model in status["models"].items():
        error = model.get("error")
        if error:
            mend = f"modelsyncd release {name} --data {quote(str(data.root))}"
            refused = model["state"] in ("quarantined", "rolled back")
            yield warning("models", f"{name} is {model['state']}: {error['text']}", mend if refused else None)
    if status["models"] and not any(model.get("error") for model in status["models"].values()):
        yield good("models", f"{len(status['models'])} model(s), none with an error.")


def _group(path: Path) -> str:
    try:
        return path.group()
    except (OSError, KeyError):
        return "modelsync"
