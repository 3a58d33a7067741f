"""What an origin answers to which request, whatever holds the objects: paths, single ranges, tags.

Strong tags are equal on every copy of a store. No I/O here.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from aiohttp import web

from modelsync_server.store.port import changes

_PATH = re.compile(r"/(metadata|bundles|manifests|packs|updates)((?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}){1,2})")
PIECE_SECONDS = 300.0
"""How long a reader may take for one piece; whoever is slower is cut off and resumes. 2G takes a minute."""

KEPT_OBJECT_BYTES = 1 << 20
"""Objects of a bucket up to this size may be kept by whoever serves them."""

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


def object_path(request: web.Request) -> str | None:
    """Which object a request is for; None if it is none of a store's."""
    # The raw path too: a path that was only made harmless by decoding it is not one of ours.
    if _PATH.fullmatch(request.path) is None or request.raw_path.partition("?")[0] != request.path:
        return None
    return request.path.removeprefix("/")


@dataclass(frozen=True, slots=True)
class Part:
    """Which bytes of an object to send: `length` from `start`; `partial` if a range was asked for."""

    start: int
    length: int
    partial: bool


def part(request: web.Request, size: int, tag: str) -> Part | None:
    """The asked part, the whole if no usable range is asked, None if the range is beyond the end (RFC 9110 §14)."""
    whole = Part(0, size, partial=False)
    asked = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    condition = request.headers.get("If-Range")
    if asked is None or request.method != "GET" or (condition is not None and condition != tag):
        return whole
    first, last = asked.groups()
    if first:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return whole  # not a range at all: RFC 9110 lets it be ignored
    elif last:
        start, end = max(size - int(last), 0), size - 1
        if int(last) == 0:
            return None
    else:
        return whole
    return Part(start, end - start + 1, partial=True) if start < size else None


def tag(path: str, size: int, content: bytes = b"") -> str:
    """A strong tag that a copy of the store gives too: from content where it changes, else from name and size."""
    seed = hashlib.sha256(content if changes(path) else f"{path}:{size}".encode())
    return f'"{base64.urlsafe_b64encode(seed.digest()[:9]).decode()}"'


def matches(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names the tag (weak comparison)."""
    if header is None:
        return False
    return any(item.strip().removeprefix("W/") in (tag, "*") for item in header.split(","))


async def drop_needless_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Devices on metered links pay for each header of each answer."""
    for name in ("Server", "Content-Type"):
        response.headers.pop(name, None)


async def say_how_long_to_keep(request: web.Request, response: web.StreamResponse) -> None:
    """Tell nginx in front how many seconds it may answer by itself.

    What changes and what is absent: one, as a fleet comes at the same. What is small and never changes: a day. Nothing
    else, least of all a part.
    """
    seconds = 0
    if response.status == 404 or (response.status == 200 and changes(request.path.removeprefix("/"))):
        seconds = 1
    elif response.status == 200 and (response.content_length or 0) <= KEPT_OBJECT_BYTES:
        seconds = 86_400
    response.headers["X-Accel-Expires"] = str(seconds)
