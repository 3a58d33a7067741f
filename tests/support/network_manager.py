"""A stand-in for NetworkManager on a bus of its own (a real dbus-daemon), with the same interface."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_error, new_method_call, new_method_return
from jeepney.io.asyncio import DBusConnection, DBusRouter, open_dbus_connection

LACKING = "" if shutil.which("dbus-daemon") else "this machine lacks dbus-daemon (apt install dbus-daemon)"
_NAME = "org.freedesktop.NetworkManager"
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""


@contextlib.asynccontextmanager
async def bus(folder: Path) -> AsyncIterator[str]:
    """A bus; its address."""
    path, config = folder / "bus", folder / "bus.conf"
    config.write_text(_CONFIG.format(path=path))
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon", "--nofork", "--nosyslog", "--print-address", f"--config-file={config}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield f"unix:path={path}"
    finally:
        process.kill()
        await process.wait()


@dataclass
class FakeNetworkManager:
    """Knows one device, `interface`: `metered` is NMMetered's number, `ssid` None if it is no Wi-Fi. `mute`: it takes
    calls and never answers."""

    interface: str
    metered: int = 0
    ssid: bytes | None = None
    mute: bool = False
    asked: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def on(self, address: str) -> AsyncIterator[FakeNetworkManager]:
        """Own the name on the bus at `address`."""
        connection = await open_dbus_connection(address)
        bus_itself = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
        async with DBusRouter(connection) as router:
            await router.send_and_get_reply(new_method_call(bus_itself, "RequestName", "su", (_NAME, 0)))
        task = asyncio.ensure_future(self._serve(connection))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await connection.close()

    async def _serve(self, connection: DBusConnection) -> None:
        while True:
            message = await connection.receive()
            if message.header.message_type == MessageType.method_call and not self.mute:
                await connection.send(self._answer(message))

    def _answer(self, message: Message) -> Message:
        fields = message.header.fields
        path, member = fields[HeaderFields.path], fields[HeaderFields.member]
        self.asked.append(member)
        if member == "GetDeviceByIpIface":
            if message.body[0] != self.interface:
                return new_error(message, f"{_NAME}.UnknownDevice", "s", ("No device found for the requested iface.",))
            return new_method_return(message, "o", (f"/{_NAME.replace('.', '/')}/Devices/1",))
        found = self._properties(path).get(tuple(message.body))
        if member != "Get" or found is None:
            return new_error(message, "org.freedesktop.DBus.Error.InvalidArgs", "s", ("No such property",))
        return new_method_return(message, "v", (found,))

    def _properties(self, path: str) -> dict[tuple[str, ...], tuple[str, Any]]:
        if path.endswith("/AccessPoint/7"):
            return {(f"{_NAME}.AccessPoint", "Ssid"): ("ay", self.ssid or b"")}
        found: dict[tuple[str, ...], tuple[str, Any]] = {(f"{_NAME}.Device", "Metered"): ("u", self.metered)}
        if self.ssid is not None:
            point = f"/{_NAME.replace('.', '/')}/AccessPoint/7" if self.ssid else "/"
            found[f"{_NAME}.Device.Wireless", "ActiveAccessPoint"] = ("o", point)
        return found
