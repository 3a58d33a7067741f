"""Whether this machine's zlib packs as the publisher's: looked at once for each version, and remembered."""

from __future__ import annotations

from pathlib import Path

from modelsync_daemon.disk import zlib_verdict
from modelsync_protocol.plain import reference


def packs_alike(place: Path) -> bool:
    """Whether members may be packed here; `place` is where the verdict is kept."""
    known = zlib_verdict.read(place)
    if known is None:
        known = reference.is_reference()
        zlib_verdict.keep(place, known)
    return known


def distrust(place: Path) -> None:
    """Remember that a member came out otherwise than the publisher's, whatever the reference bytes say."""
    zlib_verdict.keep(place, False)
