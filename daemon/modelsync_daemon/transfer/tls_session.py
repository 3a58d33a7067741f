"""Resumes the TLS 1.3 session of the last visit: a ticket from a private file in place of certificates and signatures.

Python's ssl resumes sessions of one process only, and asyncio none. So the session is read from and put into libssl's
own objects by ctypes: the library that `_ssl` is linked to, at places whose neighbours prove them; where one does not,
or a function is missing, connections are made in full. What comes over them is unverified as ever: TUF proves it.
"""

from __future__ import annotations

import ctypes
import hashlib
import ssl
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from modelsync_daemon.disk.durable import durable_write
from modelsync_protocol.errors import LocalError

_MAGIC = b"modelsync tls session 1\n"
_MAX_BYTES = 64 * 1024
_PRIVATE = 0o600
_PADDING = 0x10
"""SSL_OP_TLSEXT_PADDING, which `ssl` sets for load balancers of 2014, without a name: up to 230 bytes a connection."""


class TicketContext(ssl.SSLContext):
    """A client's context that offers `ticket`'s session to `host`, and keeps the newest one that it is given."""

    _ticket: Path | None = None
    _host = ""
    _about = b""
    _latest: ssl.SSLObject | None = None

    def remember(self, ticket: Path, host: str, port: int, ca: Path | None) -> None:
        """Keep sessions with `host`:`port` in the file `ticket`; sessions verified by another `ca` don't count."""
        trusted = b"system" if ca is None else hashlib.sha256(ca.read_bytes()).digest()
        self._ticket, self._host = ticket, host
        self._about = hashlib.sha256(b"%s:%d\n%s" % (host.encode(), port, trusted)).digest()

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """As of SSLContext; a connection to the host goes on with the kept session."""
        made = super().wrap_bio(*args, **options)
        if self._ticket is not None and options.get("server_hostname") == self._host:
            self._latest = made
            session = self._kept(self._ticket)
            if session:
                _resume(made, self, session)
        return made

    def keep(self) -> None:
        """Write the newest session to the file, if the server gave a ticket for it."""
        if self._ticket is None or self._latest is None or self._latest.version() not in (None, "TLSv1.3"):
            return
        session = self._latest.session
        data = _encoded(session, self) if session is not None and session.has_ticket else b""
        if data:
            with suppress(OSError, LocalError):  # the next connection is made in full
                self._ticket.parent.mkdir(mode=0o700, exist_ok=True)
                durable_write(self._ticket, _MAGIC + self._about + data, _PRIVATE)

    def _kept(self, ticket: Path) -> bytes:
        """The session's bytes, or none: nobody else may have been able to write them."""
        try:
            if ticket.stat().st_mode & 0o077 or ticket.stat().st_size > _MAX_BYTES:
                return b""
            data = ticket.read_bytes()
        except OSError:
            return b""
        head = _MAGIC + self._about
        return data[len(head) :] if data.startswith(head) else b""


def client_context(ca: Path | None) -> TicketContext:
    """As `ssl.create_default_context`, for servers that `ca` (a PEM file; None: the system's) vouches for."""
    context = TicketContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    context.options &= ~_PADDING
    if ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=str(ca))
    return context


@cache
def _library() -> Any:
    """libssl as `_ssl` has it; None if it can't be reached, or for a Python whose objects nobody has looked at."""
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 15):
        return None
    try:
        import _ssl

        lib = ctypes.CDLL(_ssl.__file__)
        lib.i2d_SSL_SESSION.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        lib.d2i_SSL_SESSION.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long)
        lib.d2i_SSL_SESSION.restype = ctypes.c_void_p
        lib.SSL_set_session.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        lib.SSL_SESSION_free.argtypes = (ctypes.c_void_p,)
        lib.SSL_SESSION_free.restype = None
    except (ImportError, AttributeError, OSError):
        return None
    return lib


def _before_context(thing: Any, context: ssl.SSLContext) -> int | None:
    """The pointer that stands just before the pointer to `context` in one of `_ssl`'s objects; None if none does.

    `_ssl` keeps `SSL *ssl; PySSLContext *ctx;` and `SSL_SESSION *session; PySSLContext *ctx;`. Only words of the object
    itself are read.
    """
    word, size = ctypes.sizeof(ctypes.c_void_p), type(thing).__basicsize__
    begin = object.__basicsize__
    words = (ctypes.c_void_p * ((size - begin) // word)).from_address(id(thing) + begin)
    places = [number for number, value in enumerate(words) if value == id(context)]
    return words[places[0] - 1] if len(places) == 1 and places[0] > 0 else None


def _resume(made: ssl.SSLObject, context: ssl.SSLContext, data: bytes) -> None:
    lib, connection = _library(), _before_context(getattr(made, "_sslobj", None), context)
    if lib is None or not connection:
        return
    buffer = ctypes.create_string_buffer(data, len(data))
    place = ctypes.c_void_p(ctypes.addressof(buffer))
    session = lib.d2i_SSL_SESSION(None, ctypes.byref(place), len(data))
    if session:
        lib.SSL_set_session(connection, session)
        lib.SSL_SESSION_free(session)


def _encoded(session: Any, context: ssl.SSLContext) -> bytes:
    lib, pointer = _library(), _before_context(session, context)
    if lib is None or not pointer:
        return b""
    size = lib.i2d_SSL_SESSION(pointer, None)
    if not 0 < size < _MAX_BYTES - 256:
        return b""
    buffer = ctypes.create_string_buffer(size)
    place = ctypes.c_void_p(ctypes.addressof(buffer))
    lib.i2d_SSL_SESSION(pointer, ctypes.byref(place))
    return buffer.raw
