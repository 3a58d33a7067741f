"""Which version is meant, and is it believed: asks the trust store, and fetches what that wants to see."""

from __future__ import annotations

import asyncio

from modelsync_daemon.build.request import PrepareRequest, Trust
from modelsync_daemon.transfer.download import ObjectSource
from modelsync_daemon.trust.resolved import Resolved
from modelsync_protocol import caps, names
from modelsync_protocol.errors import UsageError


async def resolve(request: PrepareRequest, trust: Trust, origin: ObjectSource) -> Resolved:
    """What `request` asks for, as `trust` believes it; raises as of TrustStore.seed and TrustStore.resolve.

    The bundle is asked for at once, since whoever checks it asks for it first: it comes while what checks may still be
    importing. If that refuses before, the request is given up.
    """
    if request.trust_root is not None:
        try:
            root = request.trust_root.read_bytes()
        except OSError as error:
            raise UsageError(f"{request.trust_root} can't be read: {error.strerror}.") from error
        trust.seed(root)
    loop, bundle = asyncio.get_running_loop(), names.bundle_object(request.name)
    early = asyncio.ensure_future(origin.get(bundle, caps.MAX_BUNDLE_BYTES))
    taken = False

    async def get(path: str, limit: int) -> bytes:
        nonlocal taken
        if not taken:
            taken = True
            if path == bundle:
                return await early
            await asyncio.wait([early])  # an origin takes one call at a time
        return await origin.get(path, limit)

    def fetch(path: str, limit: int) -> bytes:
        return asyncio.run_coroutine_threadsafe(get(path, limit), loop).result()

    try:
        return await asyncio.to_thread(trust.resolve, request.name, request.version, fetch, carried=not request.origin)
    finally:
        early.cancel()
        await asyncio.gather(early, return_exceptions=True)
