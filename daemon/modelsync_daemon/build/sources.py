"""Where a preparation's objects come from: the origin, shared with neighbours or not, asked for parcels or not."""

from __future__ import annotations

import contextlib

from modelsync_daemon.build.request import Listener, PrepareRequest
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.transfer.download import ObjectSource
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.transfer.origin_secret import Access
from modelsync_daemon.transfer.parcel_origin import ParcelOrigin
from modelsync_protocol import caps


def origin(request: PrepareRequest, listener: Listener, data: DataDir) -> Origin:
    """The origin that the request names."""
    return Origin(
        request.origin,
        request.origin_ca,
        stall_seconds=request.stall_seconds,
        rate_limit=request.rate_limit,
        on_traffic=listener.wire,
        access=Access(request.secrets, request.read_secret),
        proxy=request.proxy,
        ticket=data.tls_session,
    )


def with_parcel(request: PrepareRequest, common: ObjectSource, data: DataDir) -> ObjectSource:
    """Ask for a parcel, unless it is likely to bring more than is wanted or may be spent."""
    held = [item for item in data.all_installed() if item.name == request.name]
    newest = max(held, key=lambda item: item.version, default=None)
    back = newest is not None and request.version is not None and request.version <= newest.version
    limits = [limit for limit in (request.byte_limit, request.update_limit) if limit is not None]
    spent = min(limits, default=2 * caps.MAX_ENCLOSED_BYTES) < 2 * caps.MAX_ENCLOSED_BYTES
    if not request.origin or request.repair is not None or request.quarantined or back or spent:
        return common
    return ParcelOrigin(common, request.name, None if newest is None else newest.digest)


def shared(
    origin: ObjectSource, request: PrepareRequest, listener: Listener
) -> contextlib.AbstractAsyncContextManager[ObjectSource]:
    """`origin`, shared with the neighbours that the request names, if it names any."""
    if request.site is None or not isinstance(origin, Origin):
        return contextlib.nullcontext(origin)
    from modelsync_daemon.transfer.site_origin import SiteOrigin  # only devices with neighbours carry it

    return SiteOrigin(origin, request.origin, request.site, listener.site, listener.neighbour)
