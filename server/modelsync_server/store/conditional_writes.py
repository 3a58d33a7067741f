"""Proves, before anything is written, that a service keeps to conditions: some that speak S3 take them and lie.

A publisher that is told "created" where somebody else's object stood would destroy it; metadata is what two publishers
race for. The object that is written to for the proof is nobody's: its name begins with a dot, which no object's does.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from modelsync_protocol.errors import RefusedError
from modelsync_server.store.port import AlreadyExists, Tagged, TagMismatch

NAME = ".modelsync-conditional-writes"

NEEDED = (
    "two publishers could overwrite each other's metadata, so nothing is written. Use a service or release that keeps "
    "to If-None-Match and If-Match (Amazon S3, R2, MinIO, Ceph and Google Cloud Storage do), or a directory."
)
_CONTENT = b"This object proves that conditional writes work. It may be deleted. "
_TRIES = 20


async def prove(
    place: str,
    create: Callable[[bytes], Awaitable[None]],
    read: Callable[[], Awaitable[Tagged]],
    replace: Callable[[bytes, str], Awaitable[str]],
    stale: str,
) -> None:
    """Return if `create` refuses what is there, and `replace` refuses the tag `stale`, which no content has, and takes
    the current one; else RefusedError says what `place` does wrong.

    Several may prove at once. Four requests, five the first time, and no permission to delete."""
    try:
        await create(_content())
    except AlreadyExists:
        pass  # an earlier proof's
    else:
        try:
            await create(_content())
        except AlreadyExists:
            pass
        else:
            raise RefusedError(f"{place} ignores If-None-Match: {NEEDED}")
    try:
        await replace(_content(), stale)
    except TagMismatch:
        pass
    else:
        raise RefusedError(f"{place} ignores If-Match: {NEEDED}")
    last = ""
    for _ in range(_TRIES):
        current = await read()
        if not current.data.startswith(_CONTENT) or not current.etag:
            raise RefusedError(f"{place} does not give back what was written, with its tag: {NEEDED}")
        try:
            await replace(_content(), current.etag)
            return
        except TagMismatch:
            if current.etag == last:
                break
            last = current.etag  # somebody else proves at the same time
    raise RefusedError(f"{place} refuses If-Match with an object's own tag: {NEEDED}")


def _content() -> bytes:
    """Another each time, so that a tag which is seen again means that nobody wrote meanwhile."""
    return _CONTENT + secrets.token_hex(8).encode() + b"\n"
