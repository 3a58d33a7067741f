"""Making a store: the first keys and the first metadata. What comes later is repository.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from modelsync_protocol import trust
from modelsync_protocol.errors import UsageError
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store, durable
from modelsync_server.trust import signing
from modelsync_server.trust.keys import KeyStore, key_folder, store_id
from modelsync_server.trust.metadata import highest_numbers, now


@dataclass(frozen=True, slots=True)
class Initialised:
    """A fresh store's keys, and the root.json to give to devices."""

    keys: KeyStore
    trust_file: Path


async def initialise(store: Store, keys: str | None = None, root_keys: int = 1, root_threshold: int = 1) -> Initialised:
    """Make keys and the first metadata. A run that was interrupted is finished by the next one with the same keys.

    The first root is what makes a place a store, and it is created once: of two runs at once, one loses with a
    UsageError. Keys are saved before anything is signed for with them.
    """
    if not 1 <= root_threshold <= root_keys <= 32:
        raise UsageError("--root-threshold must be at least 1 and at most --root-keys (up to 32).")
    present = await _first_root(store)
    if present is not None:
        identity = store_id(present)
        if await _is_complete(store):
            raise UsageError(f"{store.url} is a modelsync store already: use it, or choose another place.")
        folder = KeyStore.open(key_folder(keys, store, identity))
        root_bytes = present
    else:
        folder, root_bytes = _make_keys(store, keys, root_keys, root_threshold)
        try:
            await store.create(trust.metadata_object("root", 1), root_bytes)
        except AlreadyExists:
            raise UsageError(f"{store.url} has just been made a store by somebody else: use that.") from None
    await _first_metadata(store, folder, root_bytes)
    return Initialised(folder, folder.root_file)


def _make_keys(store: Store, option: str | None, count: int, threshold: int) -> tuple[KeyStore, bytes]:
    root_signers = [CryptoSigner.generate_ed25519() for _ in range(count)]
    targets = CryptoSigner.generate_ed25519()
    online = CryptoSigner.generate_ed25519()
    root = Metadata(Root(version=1, expires=now() + signing.lifetime("root"), consistent_snapshot=True))
    root.signed.unrecognized_fields[trust.ISSUED] = trust.format_time(now())
    for signer in root_signers:
        root.signed.add_key(signer.public_key, "root")
    root.signed.roles["root"].threshold = threshold
    root.signed.add_key(targets.public_key, "targets")
    root.signed.add_key(online.public_key, "snapshot")
    root.signed.add_key(online.public_key, "timestamp")
    for signer in root_signers:
        root.sign(signer, append=True)
    data = root.to_bytes(JSONSerializer(compact=True))
    identity = store_id(data)
    folder = KeyStore.create(key_folder(option, store, identity), identity)
    for signer in root_signers:
        folder.add("root", signer)
    folder.add("targets", targets)
    for role in ("snapshot", "timestamp", "models"):
        folder.add(role, online)
    durable.write(folder.root_file, data)
    folder.save()
    return folder, data


async def _first_metadata(store: Store, keys: KeyStore, root_bytes: bytes) -> None:
    root: Metadata[Root] = Metadata[Root].from_bytes(root_bytes)
    highest = await highest_numbers(store)
    number = max(highest.get("targets", 0), highest.get("snapshot", 0)) + 1  # past what an interrupted run left
    targets = Metadata(Targets(version=number))
    await store.create(trust.metadata_object("targets", number), signing.sign(targets, "targets", [root], keys))
    snapshot = Metadata(Snapshot(version=number, meta={"targets.json": MetaFile(number)}))
    await store.create(trust.metadata_object("snapshot", number), signing.sign(snapshot, "snapshot", [root], keys))
    timestamp = Metadata(Timestamp(version=1, snapshot_meta=MetaFile(number)))
    await store.create(trust.TIMESTAMP_OBJECT, signing.sign(timestamp, "timestamp", [root], keys))


async def _first_root(store: Store) -> bytes | None:
    try:
        return await store.get(trust.metadata_object("root", 1))
    except ObjectNotFound:
        return None


async def _is_complete(store: Store) -> bool:
    try:
        await store.stat(trust.TIMESTAMP_OBJECT)
    except ObjectNotFound:
        return False
    return True
