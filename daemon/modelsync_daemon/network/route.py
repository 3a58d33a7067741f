"""The kernel's routes, by netlink (rtnetlink(7)): by which interface an address is reached; that something changed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys
from dataclasses import dataclass
from types import TracebackType

_ERROR, _DONE = 2, 3
_NEW_ROUTE, _GET_ROUTE = 24, 26
_REQUEST = 1
_FIB_MATCH = 0x2000
"""Answer with the route as it stands in the table, not with a copy for the address (Linux 4.13)."""

_DESTINATION, _OUTPUT, _GATEWAY, _VIA = 1, 4, 5, 18
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV4_RULE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV6_RULE = 1, 5, 7, 8, 9, 11, 19
_GROUPS = (_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV4_RULE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV6_RULE)
_ANSWER_BYTES = 16 * 1024
_SETTLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Route:
    """The interface that an address is reached by. `on_link`: it lies in a network that the interface is in, and not
    behind a gateway or a default route."""

    interface: str
    on_link: bool


def lookup(ip: str) -> Route | None:
    """How the kernel would send to `ip` now; None if it would not. OSError if it may not be asked."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    target = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _DESTINATION) + address.packed
    body = _ROUTE.pack(family, 8 * len(address.packed), 0, 0, 0, 0, 0, 0, _FIB_MATCH) + target
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(2.0)
        netlink.bind((0, 0))
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST, 1, 0) + body)
        answer = netlink.recv(_ANSWER_BYTES)
    length, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _NEW_ROUTE:  # an error: unreachable, prohibited, blackhole, or no route at all
        return None
    prefix = answer[_HEADER.size + 1]
    attributes = _attributes(answer[_HEADER.size + _ROUTE.size : length])
    index = int.from_bytes(attributes.get(_OUTPUT, b""), sys.byteorder)
    with contextlib.suppress(OSError):
        return Route(socket.if_indextoname(index), prefix > 0 and not {_GATEWAY, _VIA} & attributes.keys())
    return None


def source(ip: str) -> str | None:
    """The address that this device would speak to `ip` from now; None if it can't. Nothing is sent."""
    with socket.socket(
        socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    ) as probe:
        try:
            probe.connect((ip, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


class Changes:
    """Wakes when the kernel says that an interface, an address or a route came, went or changed. It need not say true:
    who is woken looks. Use as a context manager, from one event loop; OSError if it may not be asked."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._socket: socket.socket | None = None

    def __enter__(self) -> Changes:
        netlink = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            netlink.bind((0, sum(1 << (group - 1) for group in _GROUPS)))
            asyncio.get_running_loop().add_reader(netlink, self._read)
        except BaseException:
            netlink.close()
            raise
        self._socket = netlink
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(_ANSWER_BYTES)
                except BlockingIOError:
                    raise
                except OSError:  # ENOBUFS: more happened than it could keep
                    break
        self._event.set()

    async def wait(self) -> None:
        """Until something changed since the last call; what changes closely together is one change."""
        await self._event.wait()
        await asyncio.sleep(_SETTLE_SECONDS)
        self._event.clear()
