"""The peers, in the order in which they are reported."""

from __future__ import annotations

from modelsync_bench.peers.bsdiff import Bsdiff
from modelsync_bench.peers.detools import Detools
from modelsync_bench.peers.hdiffpatch import Hdiffpatch
from modelsync_bench.peers.https_get import HttpsGet, HttpsGetResumed
from modelsync_bench.peers.modelsync import Modelsync
from modelsync_bench.peers.port import Account, Job, Peer, Site
from modelsync_bench.peers.xdelta3 import Xdelta3
from modelsync_bench.peers.zstd import Zstd, ZstdPatch

__all__ = ["Account", "Job", "Peer", "Site", "peers"]


def peers() -> dict[str, Peer]:
    """Name → peer, all that the bench knows, installed or not."""
    known: list[Peer] = [
        Modelsync(),
        HttpsGet(),
        HttpsGetResumed(),
        Zstd(),
        ZstdPatch(),
        Xdelta3(),
        Bsdiff(),
        Hdiffpatch(),
        Detools(),
    ]
    return {peer.name: peer for peer in known}
