"""TLS tickets that serve devices which come once a day: good for a week, by every process, and sent only when due.

libssl's own last two hours, die with the process and come with every connection. Python's ssl has no setting for that,
so libssl is called, on the connection that one of `_ssl`'s objects holds. No sockets here.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import ssl
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

_SECONDS = 7 * 24 * 3600
"""The most that TLS 1.3 allows (RFC 8446 §4.6.1)."""

_SET_TICKET_KEYS = 59
"""SSL_CTRL_SET_TLSEXT_TICKET_KEYS: of 80 bytes, which are a name, a key for HMAC and one for AES-256."""

_KEY_BYTES = 80
_LABEL = b"modelsync ticket keys 1 "


def issue(context: ssl.SSLContext, key: Path) -> None:
    """Have a server's context give one ticket a connection, and none to who has a good one; none at all without libssl.

    The keys follow from the file of the private key: a restart keeps them, a new key ends them. As a resumed connection
    agrees on new keys by Diffie-Hellman, who learns the private key later can read none.
    """
    context.num_tickets = 0
    lib = _library()
    connection = _connection(context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True))
    if lib is None or not connection:
        return
    found = lib.SSL_get_SSL_CTX(connection)
    if lib.SSL_CTX_ctrl(found, _SET_TICKET_KEYS, _KEY_BYTES, keys(key)) == 1:
        lib.SSL_CTX_set_timeout(found, _SECONDS)
        context.num_tickets = 1
        context.sslobject_class = _Sparing


def keys(key: Path) -> bytes:
    """The tickets' keys that follow from the file of a private key, as OpenSSL and nginx take them (80 bytes)."""
    secret = key.read_bytes()
    return b"".join(hmac.digest(secret, _LABEL + b"%d" % number, hashlib.sha512) for number in range(2))[:_KEY_BYTES]


class _Sparing(ssl.SSLObject):
    """A server's side of a connection, which gives no ticket in the first half of the life of the one it was shown."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            session = self.session if self.session_reused else None
            lib, connection = _library(), _connection(self)
            if session is not None and time.time() < session.time + _SECONDS / 2 and lib is not None and connection:
                lib.SSL_set_num_tickets(connection, 0)
            raise


@cache
def _library() -> Any:
    """libssl as `_ssl` has it; None if it can't be reached, or for a Python whose objects nobody has looked at."""
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 15):
        return None
    try:
        import _ssl

        lib = ctypes.CDLL(_ssl.__file__)
        lib.SSL_get_SSL_CTX.argtypes, lib.SSL_get_SSL_CTX.restype = (ctypes.c_void_p,), ctypes.c_void_p
        lib.SSL_CTX_set_timeout.argtypes = (ctypes.c_void_p, ctypes.c_long)
        lib.SSL_CTX_ctrl.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
        lib.SSL_set_num_tickets.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    except (ImportError, AttributeError, OSError):
        return None
    return lib


def _connection(made: ssl.SSLObject) -> int | None:
    """The connection's pointer, which `_ssl` keeps just before that to the context: None if its object is another."""
    thing = getattr(made, "_sslobj", None)
    word, begin = ctypes.sizeof(ctypes.c_void_p), object.__basicsize__
    words = (ctypes.c_void_p * ((type(thing).__basicsize__ - begin) // word)).from_address(id(thing) + begin)
    places = [number for number, value in enumerate(words) if value == id(made.context)]
    return words[places[0] - 1] if len(places) == 1 and places[0] > 0 else None
