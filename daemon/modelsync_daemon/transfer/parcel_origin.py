"""An origin asked for a parcel where the trust bundle is wanted, so that what comes with it needs no request.

It knows no trust: what comes in a parcel is checked like what is fetched. What is damaged in a parcel, as far as its
name tells, is fetched from the origin instead; and so is what is asked for again.
"""

from __future__ import annotations

import hashlib
import re

from modelsync_daemon.transfer.download import ObjectReader, ObjectSource
from modelsync_daemon.transfer.memory_body import MemoryBody
from modelsync_daemon.trust.resolved import ObjectMissing
from modelsync_protocol import caps, codecs, index, names, parcel
from modelsync_protocol.errors import FormatError
from modelsync_protocol.parcel import Parcel


class ParcelOrigin:
    """`origin` for one preparation of `model` on a device that has manifest digest `base` of it, or nothing (None)."""

    def __init__(self, origin: ObjectSource, model: str, base: str | None) -> None:
        self._origin = origin
        self._model = model
        self._base = base
        self._parcel: Parcel | None = None
        self._newer_offers: bytes | None = None
        self._asked = False
        self._given: set[str] = set()

    async def get(self, path: str, limit: int) -> bytes:
        """As of ObjectSource; a model's bundle comes in a parcel if the origin has one."""
        if path == names.bundle_object(self._model) and not self._asked:
            self._asked = True
            for version in range(codecs.NEWEST_VERSION, 0, -1):
                try:
                    wanted = names.parcel_object(self._model, self._base, version)
                    self._parcel = await self._read(wanted)
                    if version > 1:
                        self._newer_offers = self._parcel.newer_offers
                    return self._parcel.bundle
                except (ObjectMissing, FormatError):
                    pass  # of an older publisher, or for a base that it doesn't know any more
        found = None if path in self._given else self._find(path)
        self._given.add(path)
        return await self._origin.get(path, limit) if found is None or len(found) > limit else found

    async def _read(self, path: str) -> Parcel:
        try:
            return parcel.decode(await self._origin.get(path, caps.MAX_BUNDLE_BYTES))
        except FormatError:
            if not self._origin.mistrust(path):
                raise
            return parcel.decode(await self._origin.get(path, caps.MAX_BUNDLE_BYTES))

    async def size(self, path: str) -> int | None:
        """As of ObjectSource."""
        found = self._find(path)
        return await self._origin.size(path) if found is None else len(found)

    def open(self, path: str, offset: int, end: int, *, whole: bool, etag: str = "") -> ObjectReader:
        """As of ObjectSource."""
        found = self._find(path)
        if found is not None and (len(found) == end if whole else len(found) >= end):
            return MemoryBody(found[:end], offset)
        return self._origin.open(path, offset, end, whole=whole, etag=etag)

    @property
    def hearsay(self) -> bool:
        """As of ObjectSource."""
        return self._origin.hearsay

    def mistrust(self, path: str) -> bool:
        """As of ObjectSource."""
        return self._origin.mistrust(path)

    def newer_offers(self) -> bytes | None:
        """As of ObjectSource."""
        return self._newer_offers

    def _find(self, path: str) -> bytes | None:
        folder, _, name = path.partition("/")
        found = None if self._parcel is None else self._parcel.get(path)
        if found is None or (folder == "updates" and not re.search(rf"/{self._base}\.v[12]$", name)):
            return None
        if folder == "packs" and hashlib.sha256(found).hexdigest() != name:
            return None
        return None if folder == "manifests" and not _is_manifest(found, name) else found


def _is_manifest(data: bytes, digest: str) -> bool:
    try:
        index.decode_object(data, digest)
    except FormatError:
        return False
    return True
