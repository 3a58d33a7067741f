"""Changing who signs: devices follow at every moment, and an interrupted change is finished by the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelsync_protocol import trust
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.store import MemoryStore
from modelsync_server.trust import NewTarget, Repository, read_catalogue, rotation
from modelsync_server.trust.keys import ROLES, Entry
from tests.support.trust_world import World, digest_of, newest, signer_from


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = await World.make(tmp_path)
    await world.publish("anomaly", *range(1, 13))
    return world


@pytest.mark.parametrize("role", [*ROLES, "online"])
async def test_every_role_gets_new_keys_and_devices_follow(world: World, role: str) -> None:
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    (keyid,) = await rotation.rotate(await world.repository(), role)
    await world.publish("anomaly", 13)
    assert device.resolve("anomaly", None, world.fetch).version == 13
    assert device.resolve("anomaly", 1, world.fetch).version == 1
    assert world.device("new").resolve("anomaly", None, world.fetch).version == 13
    repository = await world.repository()
    assert keyid in [key.keyid for name in rotation.roles_named(role) for key in repository.keys.keys_of(name)]


class WatchedStore(MemoryStore):
    """Lets a device with the old root and one with every new root look after each write."""

    world: World
    looks = 0

    async def create(self, path: str, source: bytes | Path) -> None:
        await super().create(path, source)
        self._look()

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        etag = await super().replace(path, data, if_etag)
        self._look()
        return etag

    def _look(self) -> None:
        self.looks += 1
        for name in ("old", f"fresh-{self.looks}"):
            assert self.world.device(name).resolve("anomaly", None, self.world.fetch).version == 12


@pytest.mark.parametrize("role", ["online", "targets", "root", "timestamp"])
async def test_no_device_is_refused_at_any_moment_of_a_change(world: World, role: str) -> None:
    watched = WatchedStore()
    watched.objects = world.store.objects
    watched.world = world
    await rotation.rotate(await Repository.open(watched, str(world.keys)), role)
    assert watched.looks >= 3


class Crash(Exception):
    """Stands for a power cut."""


class CrashingStore(MemoryStore):
    """Breaks off at the n-th write."""

    left = 0

    async def create(self, path: str, source: bytes | Path) -> None:
        self._count()
        await super().create(path, source)

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        self._count()
        return await super().replace(path, data, if_etag)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash


@pytest.mark.parametrize("lost", [False, True])
async def test_an_interrupted_change_is_finished_by_running_one_again(tmp_path: Path, lost: bool) -> None:
    """Also when the old online key is lost, so that nothing can be signed by old and new keys alike."""
    for writes in range(30):
        world = await World.make(tmp_path / str(writes))
        await world.publish("anomaly", 1)
        device = world.device()
        device.resolve("anomaly", None, world.fetch)
        if lost:
            next((world.keys / "online").glob("*.pem")).unlink()
        broken = CrashingStore()
        broken.objects = world.store.objects
        broken.left = writes
        try:
            await rotation.rotate(await Repository.open(broken, str(world.keys)), "online")
            break
        except Crash:
            await rotation.reconcile(await world.repository())
        await world.publish("anomaly", 2)
        assert device.resolve("anomaly", None, world.fetch).version == 2
        assert list((await read_catalogue(world.store)).models) == ["anomaly"]
    assert writes >= (6 if lost else 8)


async def test_after_a_change_the_old_signatures_are_gone(world: World) -> None:
    """They would cost bytes at every check-in."""
    await rotation.rotate(await world.repository(), "online")
    for path in (trust.TIMESTAMP_OBJECT, *(newest(world.copy(), role) for role in ("snapshot", "anomaly"))):
        assert len(json.loads(world.store.objects[path])["signatures"]) == 1


async def test_a_change_of_the_timestamp_key_needs_the_root_key_only(world: World) -> None:
    repository = await world.repository()
    (entry,) = repository.keys.roles["targets"]
    (world.keys / entry.uri.removeprefix("file2:")).unlink()
    await rotation.rotate(await world.repository(), "timestamp")
    await world.publish("anomaly", 13)
    assert world.device().resolve("anomaly", None, world.fetch).version == 13


async def test_without_the_offline_keys_a_change_is_refused_and_publishing_goes_on(world: World) -> None:
    (world.keys / "offline").rename(world.folder / "safe")
    with pytest.raises(RefusedError, match="keys must sign"):
        await rotation.rotate(await world.repository(), "online")
    await world.publish("anomaly", 13)
    (world.folder / "safe").rename(world.keys / "offline")
    await rotation.reconcile(await world.repository())
    await world.publish("anomaly", 14)
    assert world.device().resolve("anomaly", None, world.fetch).version == 14


async def test_a_key_is_added_and_revoked(world: World) -> None:
    repository = await world.repository()
    (old,) = repository.keys.keys_of("timestamp")
    (new,) = await rotation.add_key(repository, "timestamp")
    assert await rotation.revoke(await world.repository(), new[:10]) == ["timestamp"]
    with pytest.raises(RefusedError, match="rotate"):
        await rotation.revoke(await world.repository(), old.keyid)
    with pytest.raises(UsageError, match="0 keys begin"):
        await rotation.revoke(await world.repository(), "zz")
    with pytest.raises(UsageError, match="is no role"):
        await rotation.rotate(await world.repository(), "odd")


async def test_any_signer_that_securesystemslib_knows_can_sign(world: World) -> None:
    """An entry with a URI of its own scheme: here a key file outside the key folder."""
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner

    outside = CryptoSigner.generate_ed25519()
    path = world.folder / "outside.pem"
    path.write_bytes(outside.private_bytes)
    SIGNER_FOR_URI_SCHEME["elsewhere"] = Elsewhere
    try:
        entry = Entry(outside.public_key, f"elsewhere:{path}")
        await rotation.add_key(await world.repository(), "timestamp", entry)
        old = next(key.keyid for key in (await world.repository()).keys.keys_of("timestamp") if key != entry.key)
        await rotation.add_key(await world.repository(), "snapshot", entry)
        await rotation.add_key(await world.repository(), "models", entry)
        await rotation.revoke(await world.repository(), old)
        await world.publish("anomaly", 13)
        assert world.device().resolve("anomaly", None, world.fetch).version == 13
        described = rotation.describe(await world.repository())
        assert [item.roles for item in described if item.keyid == outside.public_key.keyid] == [
            ("snapshot", "timestamp", "models")
        ]
    finally:
        del SIGNER_FOR_URI_SCHEME["elsewhere"]


class Elsewhere:
    """A signer with a URI scheme of its own, as Azure Key Vault's has."""

    @classmethod
    def from_priv_key_uri(cls, uri: str, public_key: object, secrets_handler: object = None) -> object:
        return signer_from(Path(uri.partition(":")[2]))


async def test_two_changes_at_once_both_happen(world: World) -> None:
    """Two operators with the same key folder add a root key each, one after the other's root was written."""
    first, second = await world.repository(), await world.repository()
    (one,) = await rotation.add_key(first, "root")
    second = await world.repository()
    (two,) = await rotation.add_key(second, "root")
    root = json.loads(world.store.objects["metadata/3.root.json"])["signed"]
    assert {one, two} <= set(root["roles"]["root"]["keyids"])


async def test_publishing_during_a_change_loses_nothing(world: World) -> None:
    import asyncio

    repository = await world.repository()
    target = NewTarget("anomaly", 13, digest_of("anomaly", 13), 10)
    await asyncio.gather(rotation.rotate(await world.repository(), "online"), repository.add_targets([target]))
    assert world.device().resolve("anomaly", None, world.fetch).version == 13
