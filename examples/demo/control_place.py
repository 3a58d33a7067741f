"""The demo's control plane: the local hub, or a real Mosquitto (MODELSYNC_DEMO_CONTROL=mqtt)."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from examples.demo.stage import READY_SECONDS, Process, StageError, free_address, run
from modelsync_server.broker.opening import open_service
from modelsync_server.hub.certificates import ensure
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.port import HubService
from modelsync_server.iothub.service_client import ServiceClient

CHOICE = "MODELSYNC_DEMO_CONTROL"
_ACCESS = Path(__file__).resolve().parents[2] / "deploy" / "mqtt" / "acl"


@dataclass(frozen=True, slots=True)
class ControlPlace:
    """`service`: the operator's side; `settings`: the device's, lines of TOML; `said`: what it is, for people."""

    service: HubService
    settings: str
    said: str


async def control_place(
    work: Path, device: str, stack: AsyncExitStack, process: Callable[[str], Process]
) -> ControlPlace:
    """Start what MODELSYNC_DEMO_CONTROL names ("iothub" or "mqtt"; none: iothub), with `device` known to it."""
    choice = os.environ.get(CHOICE, "iothub")
    if choice == "mqtt":
        return await _mosquitto(work, device, stack)
    if choice != "iothub":
        raise StageError(f"{CHOICE} is {choice!r}; the demo knows iothub and mqtt")
    host = free_address(8883)
    state = str(work / "hub")
    hub = await process("hub").start(
        "modelsync", "hub", "--state", state, "--host", host, "--service-port", "0", "--json"
    )
    added = await run("modelsync", "hub", "device", "add", device, "--state", state, "--json")
    service = await stack.enter_async_context(ServiceClient(parse_service(hub["service"])))
    settings = f'ca = "{hub["ca"]}"\nconnection_string = "{added["connection_string"]}"\n'
    return ControlPlace(service, settings, f"hub {host}:8883")


async def _mosquitto(work: Path, device: str, stack: AsyncExitStack) -> ControlPlace:
    url, settings, broker = await asyncio.to_thread(_start, work, device)
    stack.callback(broker.wait)
    stack.callback(broker.terminate)
    port = url.rpartition(":")[2].partition("?")[0]
    for _ in range(int(READY_SECONDS / 0.05)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                break
        await asyncio.sleep(0.05)
    service = await stack.enter_async_context(open_service(url))
    return ControlPlace(service, settings, f"Mosquitto 127.0.0.1:{port}")


def _start(work: Path, device: str) -> tuple[str, str, subprocess.Popen[bytes]]:
    """Mosquitto with TLS, a password for each and the access list of deploy/mqtt: the operator's URL, the device's
    settings and the process."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise StageError("mosquitto is not installed, and the demo was to run on it: apt-get install mosquitto")
    folder = work / "broker"
    folder.mkdir()
    tls = ensure(folder / "tls", "127.0.0.1")
    words = {user: secrets.token_hex(16) for user in (device, "operator")}
    passwords, secret = folder / "passwords", folder / "device-password"
    passwords.write_text("".join(f"{user}:{word}\n" for user, word in words.items()))
    secret.write_text(words[device])
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [
        "allow_anonymous false",
        f"password_file {passwords}",
        f"acl_file {_ACCESS}",
        f"listener {port} 127.0.0.1",
        f"certfile {tls.server}",
        f"keyfile {tls.server_key}",
        *(["user root"] if os.geteuid() == 0 else []),  # who else might not read the folder
    ]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    with (work / "logs" / "mosquitto.log").open("ab") as log:
        broker = subprocess.Popen([program, "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log)
    url = f"mqtts://operator:{words['operator']}@127.0.0.1:{port}?ca={tls.ca}"
    settings = (
        f'ca = "{tls.ca}"\ncontrol_kind = "mqtt"\ncontrol_url = "mqtts://127.0.0.1:{port}"\n'
        f'control_user = "{device}"\ncontrol_password_file = "{secret}"\n'
    )
    return url, settings, broker
