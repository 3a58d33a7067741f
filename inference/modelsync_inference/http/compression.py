"""HTTP compression of answers, for clients that ask for it (RFC 9110 §12.5.3)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

_MIN_BYTES = 1024
"""Shorter bodies fit into one packet anyway."""
_LEVEL = 1
"""Tensors hardly get smaller at higher levels, and the processor is the model's."""

_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, _LEVEL, mtime=0),
    "deflate": lambda body: zlib.compress(body, _LEVEL),
}


def compressed(body: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """`body` in an encoding that is accepted, and its name; as it is, and None, if that is none or no gain."""
    encoding = next((name for name in _accepted(accept_encoding) if name in _ENCODINGS), None)
    if encoding is None or len(body) < _MIN_BYTES:
        return body, None
    smaller = _ENCODINGS[encoding](body)
    return (smaller, encoding) if len(smaller) < len(body) else (body, None)


def _accepted(header: str) -> list[str]:
    """The names in the header, most wanted first; those with quality 0 are left out."""
    found = []
    for entry in header.lower().split(","):
        name, _, parameters = entry.partition(";")
        key, _, value = parameters.replace(" ", "").partition("=")
        try:
            quality = float(value) if key == "q" else 1.0
        except ValueError:
            quality = 0.0
        if quality > 0:
            found.append((-quality, name.strip()))
    return [name for _, name in sorted(found, key=lambda item: item[0])]
