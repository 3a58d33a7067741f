"""What NetworkManager says of an interface: the SSID, and whether bytes cost money there. Over D-Bus; it only asks.

https://networkmanager.dev/docs/api/latest/: GetDeviceByIpIface, Device.Metered, Device.Wireless.ActiveAccessPoint,
AccessPoint.Ssid. jeepney is imported only where a rule asks for any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jeepney.io.asyncio import DBusRouter

_log = logging.getLogger(__name__)
_SECONDS = 3.0
_SERVICE = "org.freedesktop.NetworkManager"
_METERED = {1: True, 2: False, 3: True, 4: False}
"""NMMetered: yes, no, guessed yes, guessed no; 0 is unknown."""

NO_LIBRARY = (
    "a rule names an SSID or metered, and jeepney, which asks NetworkManager, is not installed: "
    "apt install python3-jeepney."
)
NO_ANSWER = "a rule names an SSID or metered, and NetworkManager does not answer on D-Bus: such a rule fits no network."


@dataclass(frozen=True, slots=True)
class Answer:
    """None: not known, or no such thing. `problem`: why nobody could be asked."""

    ssid: str | None = None
    metered: bool | None = None
    problem: str = ""


async def ask(interface: str) -> Answer:
    """What NetworkManager knows of `interface` now; never raises, and takes 3 s at the most."""
    if not installed():
        return Answer(problem=NO_LIBRARY)
    from jeepney.io.asyncio import open_dbus_router

    try:
        async with asyncio.timeout(_SECONDS), open_dbus_router("SYSTEM") as router:
            return await _ask(router, interface)
    except Exception as error:  # a bus that goes, or says what it should not, must not end the daemon
        _log.info("NetworkManager: %s: %s", type(error).__name__, error)
        return Answer(problem=NO_ANSWER)


def installed() -> bool:
    """Whether the library is here."""
    return find_spec("jeepney") is not None


async def _ask(router: DBusRouter, interface: str) -> Answer:
    try:
        device = await _call(router, "/org/freedesktop/NetworkManager", "GetDeviceByIpIface", "s", (interface,))
    except _Refused as error:
        unknown = error.name == f"{_SERVICE}.UnknownDevice"
        return Answer() if unknown else Answer(problem=NO_ANSWER)
    metered = ssid = None
    with contextlib.suppress(_Refused):
        metered = _METERED.get(await _property(router, device, "Device", "Metered"))
    with contextlib.suppress(_Refused):  # no Wi-Fi
        point = await _property(router, device, "Device.Wireless", "ActiveAccessPoint")
        if point != "/":
            ssid = bytes(await _property(router, point, "AccessPoint", "Ssid")).decode("utf-8", "replace") or None
    return Answer(ssid, metered)


class _Refused(Exception):
    """An error came back; `name` is D-Bus's name of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


async def _property(router: DBusRouter, path: str, interface: str, name: str) -> Any:
    from jeepney import DBusAddress, Properties

    message = Properties(DBusAddress(path, _SERVICE, f"{_SERVICE}.{interface}")).get(name)
    return (await _send(router, message))[1]  # a variant: signature and value


async def _call(router: DBusRouter, path: str, method: str, signature: str, body: tuple[Any, ...]) -> Any:
    from jeepney import DBusAddress, new_method_call

    return await _send(router, new_method_call(DBusAddress(path, _SERVICE, _SERVICE), method, signature, body))


async def _send(router: DBusRouter, message: Any) -> Any:
    from jeepney import HeaderFields, MessageFlag, MessageType

    message.header.flags |= MessageFlag.no_auto_start
    answer = await router.send_and_get_reply(message)
    if answer.header.message_type != MessageType.method_return:
        raise _Refused(str(answer.header.fields.get(HeaderFields.error_name, "")))
    return answer.body[0]
