"""What came without a line stands in for the origin: a push, or an offline medium. It decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelsync_daemon.build.request import PrepareRequest

if TYPE_CHECKING:
    from modelsync_daemon.transfer.media_origin import MediaOrigin
    from modelsync_daemon.transfer.pushed_origin import PushedOrigin


def carried(request: PrepareRequest) -> PushedOrigin | MediaOrigin | None:
    """The stand-in that the request names, if it names one; errors as of either."""
    if request.media is not None:
        from modelsync_daemon.transfer.media_origin import MediaOrigin  # each imported where something came that way

        return MediaOrigin(request.media)
    if request.pushed is None:
        return None
    from modelsync_daemon.transfer.pushed_origin import PushedOrigin

    return PushedOrigin(request.pushed)
