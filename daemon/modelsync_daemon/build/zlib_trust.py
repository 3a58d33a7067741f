"""Whether this machine's zlib packs members as the publisher's did: looked at once a version, and remembered."""

from __future__ import annotations

import zlib
from contextlib import suppress
from pathlib import Path

from modelsync_daemon.disk.durable import durable_write
from modelsync_protocol.plain import reference

_SAME, _DIFFERS = "same", "differs"


def packs_alike(place: Path) -> bool:
    """Whether members may be packed here; what was found is kept in the file `place` for this version of zlib."""
    known = _known(place)
    if known is None:
        known = _SAME if reference.is_reference() else _DIFFERS
        _keep(place, known)
    return known == _SAME


def known_to_differ(place: Path) -> bool:
    """Whether it was found that members can't be packed here; looks at nothing but the file."""
    return _known(place) == _DIFFERS


def distrust(place: Path) -> None:
    """Remember that a member came out otherwise than the publisher's, whatever the reference bytes say."""
    _keep(place, _DIFFERS)


def _known(place: Path) -> str | None:
    try:
        version, _, verdict = place.read_text(encoding="ascii").strip().rpartition(" ")
    except (OSError, ValueError):
        return None
    return verdict if version == zlib.ZLIB_RUNTIME_VERSION else None


def _keep(place: Path, verdict: str) -> None:
    with suppress(OSError):  # a full disk: it is found again next time
        durable_write(place, f"{zlib.ZLIB_RUNTIME_VERSION} {verdict}\n".encode())
