"""The peers, in the order in which they are reported."""

from __future__ import annotations

from modelsync_bench.peers.bsdiff import Bsdiff
from modelsync_bench.peers.casync import Casync
from modelsync_bench.peers.detools import Detools
from modelsync_bench.peers.hdiffpatch import Hdiffpatch
from modelsync_bench.peers.hf_xet import HfXet
from modelsync_bench.peers.https_get import HttpsGet, HttpsGetResumed
from modelsync_bench.peers.modelsync import Modelsync
from modelsync_bench.peers.oci import Oci
from modelsync_bench.peers.port import Account, Job, Peer, Site
from modelsync_bench.peers.rsync import Rsync
from modelsync_bench.peers.xdelta3 import Xdelta3
from modelsync_bench.peers.zchunk import Zchunk
from modelsync_bench.peers.zstd import Zstd, ZstdPatch
from modelsync_bench.peers.zsync import Zsync

GENERAL = frozenset(
    {
        "modelsync",
        "https-get",
        "zstd",
        "zstd-patch",
        "xdelta3",
        "bsdiff",
        "hdiffpatch",
        "detools",
        "rsync",
        "zsync",
        "zchunk",
        "casync",
        "oci-gzip",
        "oci-zstd",
        "hf-xet",
    }
)
"""Who brings any pair; the others belong to one scenario."""

__all__ = ["GENERAL", "Account", "Job", "Peer", "Site", "peers"]


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
        Rsync(),
        Zsync(),
        Zchunk(),
        Casync(),
        HfXet(),
        Oci("gzip"),
        Oci("zstd"),
    ]
    return {peer.name: peer for peer in known}
