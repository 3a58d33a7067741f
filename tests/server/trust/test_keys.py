"""Where private keys may be and who may read them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from modelsync_protocol.errors import LocalError, RefusedError, UsageError
from modelsync_server.store import DirectoryStore, MemoryStore, create_store
from modelsync_server.trust import Repository, initialise
from modelsync_server.trust.keys import external_entry, key_folder
from tests.support.trust_world import World


@pytest.fixture(autouse=True)
def no_keys_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODELSYNC_KEYS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


async def test_private_keys_are_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    await World.make(tmp_path)
    files = list((tmp_path / "keys").rglob("*.pem"))
    assert {path.parent.name for path in files} == {"offline", "online"}
    for path in [*files, tmp_path / "keys" / "keys.json"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (tmp_path / "keys", tmp_path / "keys" / "offline", tmp_path / "keys" / "online"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("place", [".", "keys", "metadata/deep/keys", "../store/keys"])
async def test_keys_inside_the_store_are_refused_and_nothing_is_made(tmp_path: Path, place: str) -> None:
    store = create_store(str(tmp_path / "store"))
    with pytest.raises(UsageError, match="inside the store"):
        await initialise(store, str(tmp_path / "store" / place))
    assert list((tmp_path / "store").rglob("*")) == []


async def test_a_link_into_the_store_is_seen_through(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"))
    (tmp_path / "link").symlink_to(tmp_path / "store")
    with pytest.raises(UsageError, match="inside the store"):
        await initialise(store, str(tmp_path / "link" / "keys"))


async def test_the_folder_comes_from_the_option_then_the_environment_then_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    assert key_folder(None, store, "id") == tmp_path / "config" / "modelsync" / "keys" / "id"
    monkeypatch.setenv("MODELSYNC_KEYS", str(tmp_path / "environment"))
    assert key_folder(None, store, "id") == tmp_path / "environment"
    assert key_folder(str(tmp_path / "option"), store, "id") == tmp_path / "option"


async def test_without_any_option_each_store_has_its_own_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        store = create_store(str(tmp_path / name))
        await initialise(store)
        await Repository.open(store)
    assert len(list((tmp_path / "config" / "modelsync" / "keys").iterdir())) == 2


async def test_missing_and_foreign_keys_are_refused(tmp_path: Path) -> None:
    world = await World.make(tmp_path / "a")
    stranger = await World.make(tmp_path / "b")
    with pytest.raises(RefusedError, match="no signing keys in"):
        await Repository.open(world.store, str(tmp_path / "nowhere"))
    with pytest.raises(RefusedError, match="keys of another store"):
        await Repository.open(world.store, str(stranger.keys))
    with pytest.raises(UsageError, match="another store already"):
        await initialise(MemoryStore(), str(world.keys))


async def test_damaged_or_open_key_files_are_named(tmp_path: Path) -> None:
    world = await World.make(tmp_path)
    (path,) = (world.keys / "online").glob("*.pem")
    path.chmod(0o644)
    with pytest.raises(LocalError, match="chmod 600"):
        await world.publish("anomaly", 1)
    path.chmod(0o600)
    path.write_bytes(b"not a key")
    with pytest.raises(LocalError, match="not the private key it should be"):
        await world.publish("anomaly", 1)
    path.unlink()
    with pytest.raises(RefusedError, match="0 of them can"):
        await (await world.repository()).refresh()
    (world.keys / "keys.json").write_bytes(b"{}")
    with pytest.raises(LocalError, match="is damaged"):
        await world.repository()


async def test_the_key_folder_may_be_moved(tmp_path: Path) -> None:
    world = await World.make(tmp_path)
    moved = tmp_path / "moved #1?"
    world.keys.rename(moved)
    world.keys = moved
    await world.publish("anomaly", 1)


async def test_root_keys_and_threshold_are_as_asked(tmp_path: Path) -> None:
    world = await World.make(tmp_path, root_keys=3, root_threshold=2)
    root = json.loads(world.root)["signed"]
    assert (len(root["roles"]["root"]["keyids"]), root["roles"]["root"]["threshold"]) == (3, 2)
    for count, threshold in ((1, 2), (0, 0), (33, 1)):
        with pytest.raises(UsageError, match="--root-threshold"):
            await initialise(MemoryStore(), str(tmp_path / "odd"), count, threshold)


def test_an_external_signer_needs_uri_and_public_key(tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    key = Ed25519PrivateKey.generate().public_key()
    public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert external_entry(None, None) is None
    entry = external_entry("azurekms://vault/keys/name", public)
    assert entry is not None and entry.uri == "azurekms://vault/keys/name"
    for uri, file in (("azurekms://x", None), (None, public), ("odd:x", public), ("azurekms://x", tmp_path / "no")):
        with pytest.raises(UsageError):
            external_entry(uri, file)
    public.write_bytes(b"no key")
    with pytest.raises(UsageError):
        external_entry("azurekms://x", public)


async def test_a_store_that_is_no_directory_has_no_inside(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    with pytest.raises(UsageError):
        key_folder(str(folder), DirectoryStore(folder), "id")
