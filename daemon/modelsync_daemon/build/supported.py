"""Compares what a version requires with what this device has, before anything of it is fetched. It fetches nothing."""

from __future__ import annotations

import logging

from modelsync_daemon.build.request import PrepareRequest
from modelsync_daemon.transfer.errors import Unsupported
from modelsync_daemon.trust.resolved import Resolved
from modelsync_protocol.errors import LocalError

_log = logging.getLogger(__name__)


def check(request: PrepareRequest, resolved: Resolved) -> tuple[str, ...]:
    """Return the keys that nobody here knows, of a version that may be run.

    Raises Unsupported for what this device surely can't run, LocalError where only free disk is missing.
    """
    if request.capabilities is None or request.repair is not None or not resolved.requires:
        return ()
    from modelsync_protocol.requirements.judging import judge  # costs memory only where a version requires something

    found = judge(resolved.requires, request.capabilities)
    missing = list(found.missing)
    if request.refuse_unknown:
        missing += [f"it requires {key!r}, which this modelsyncd does not know: update it" for key in found.unknown]
    what = f"{request.name} version {resolved.version}"
    if missing:
        raise Unsupported(f"{what} can't run here: {'; '.join(missing)}.", resolved.version, resolved.digest)
    if found.room:
        raise LocalError(f"{what} waits for room: {found.room}.")
    for key in found.unknown:
        _log.warning("%s requires %s, which is not known here; it is taken all the same.", what, key)
    return found.unknown
