"""What came without a line stands in for the origin: a push, or an offline medium. It decides nothing."""

from __future__ import annotations

from modelsync_daemon.build.request import PrepareRequest
from modelsync_daemon.transfer.media_origin import MediaOrigin
from modelsync_daemon.transfer.pushed_origin import PushedOrigin


def carried(request: PrepareRequest) -> PushedOrigin | MediaOrigin | None:
    """The stand-in that the request names, if it names one; errors as of either."""
    if request.media is not None:
        return MediaOrigin(request.media)
    return None if request.pushed is None else PushedOrigin(request.pushed)
