"""A store in memory with its keys, devices, and an origin between them that a test can tamper with."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from modelsync_daemon.trust.resolved import ObjectMissing
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol import bundle, names, trust
from modelsync_server.store import MemoryStore
from modelsync_server.trust import Catalogue, NewTarget, Offers, Repository, initialise

DAY = 24 * 3600


def digest_of(model: str, version: int) -> str:
    """The manifest digest that every test store signs for this version."""
    return hashlib.sha256(names.target_path(model, version).encode()).hexdigest()


class World:
    """`served` is what the origin answers (the store's own objects unless a test replaces it)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.keys = folder / "keys"
        self.root = b""
        self.served: dict[str, bytes] = self.store.objects
        self.asked: list[str] = []

    @classmethod
    async def make(cls, folder: Path, root_keys: int = 1, root_threshold: int = 1) -> World:
        """An initialised world without models."""
        world = cls(folder)
        made = await initialise(world.store, str(world.keys), root_keys, root_threshold)
        world.root = made.trust_file.read_bytes()
        return world

    async def repository(self, offers: Offers | None = None) -> Repository:
        """A publisher with this world's keys."""
        return await Repository.open(self.store, str(self.keys), offers)

    async def publish(self, model: str, *versions: int) -> Catalogue:
        """Sign these versions in one commit."""
        targets = [NewTarget(model, version, digest_of(model, version), 1000) for version in versions]
        return await (await self.repository()).add_targets(targets)

    def device(self, name: str = "device", clock: Callable[[], float] = time.time) -> TrustStore:
        """A device of that name, seeded with this world's first root."""
        device = TrustStore(self.folder / name, clock)
        device.seed(self.root)
        return device

    def fetch(self, path: str, max_length: int) -> bytes:
        """What devices call."""
        self.asked.append(path)
        if path not in self.served:
            raise ObjectMissing(f"no {path}")
        return self.served[path]

    def copy(self) -> dict[str, bytes]:
        """The store's objects as they are now, to be served later."""
        return dict(self.store.objects)

    def online_signer(self) -> CryptoSigner:
        """The online key, as a thief would have it."""
        (path,) = (self.keys / "online").glob("*.pem")
        return signer_from(path)


def signer_from(path: Path) -> CryptoSigner:
    """The signer of a private key file."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return CryptoSigner(load_pem_private_key(path.read_bytes(), None))


def forge(data: bytes, change: Callable[[dict[str, Any]], None], signer: CryptoSigner | None) -> bytes:
    """Metadata whose signed part was changed, signed by `signer`, or with the old signatures if that is None."""
    document = json.loads(data)
    change(document["signed"])
    if signer is None:
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    metadata: Metadata[Any] = Metadata.from_dict(document)
    metadata.sign(signer, append=False)
    return metadata.to_bytes(JSONSerializer(compact=True))


def newest(objects: dict[str, bytes], role: str) -> str:
    """Path of the highest-numbered file of `role`."""
    numbers = [int(path[9:].partition(".")[0]) for path in objects if path.endswith(f".{role}.json")]
    paths = [trust.metadata_object(role, number) for number in numbers]
    return max((path for path in paths if path in objects), key=lambda path: int(path[9:].partition(".")[0]))


def without_bundles(objects: dict[str, bytes]) -> dict[str, bytes]:
    """The same origin without bundles/."""
    return {path: data for path, data in objects.items() if not path.startswith("bundles/")}


def rebundle(objects: dict[str, bytes], model: str, **parts: Any) -> None:
    """Replace parts of a model's bundle."""
    from dataclasses import replace

    path = names.bundle_object(model)
    objects[path] = bundle.encode(replace(bundle.decode(objects[path]), **parts))
