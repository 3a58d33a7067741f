"""What the device's trust store refuses: one test per attack of the TUF specification (§1.5.2), and false clocks.

The attacker has the line (he answers every request) and in some tests a stolen key; he never has the root key.
"""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from modelsync_daemon.trust.trust_store import BUILD_TIME, TrustStore
from modelsync_protocol import bundle, caps, trust
from modelsync_protocol.errors import ModelsyncError, RefusedError
from modelsync_server.trust import rotation
from tests.support.trust_world import (
    DAY,
    World,
    digest_of,
    forge,
    newest,
    rebundle,
    signer_from,
    without_bundles,
)

EVIL = "e" * 64


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = await World.make(tmp_path)
    await world.publish("anomaly", 1, 2)
    return world


def plant(signed: dict[str, Any]) -> None:
    """Point version 2 at the attacker's manifest."""
    signed["targets"]["anomaly/2"]["hashes"]["sha256"] = EVIL


@pytest.mark.parametrize("key", ["none", "own"])
@pytest.mark.parametrize("through", ["bundle", "metadata"])
async def test_arbitrary_install_a_forged_role_is_refused(world: World, key: str, through: str) -> None:
    world.served = world.copy()
    path = newest(world.served, "anomaly")
    world.served[path] = forge(world.served[path], plant, CryptoSigner.generate_ed25519() if key == "own" else None)
    if through == "bundle":
        rebundle(world.served, "anomaly", role=world.served[path])
    else:
        world.served = without_bundles(world.served)
    with pytest.raises(RefusedError, match="not signed by keys"):
        world.device().resolve("anomaly", 2, world.fetch)


async def test_arbitrary_install_one_models_key_does_not_sign_for_another(world: World) -> None:
    """The role of `other` lists `anomaly/2`, rightly signed by the online key; nobody asks it for that."""
    await world.publish("other", 1)
    world.served = world.copy()
    path = newest(world.served, "other")

    def smuggle(signed: dict[str, Any]) -> None:
        signed["targets"]["anomaly/2"] = {"hashes": {"sha256": EVIL}, "length": 10}

    world.served[path] = forge(world.served[path], smuggle, world.online_signer())
    world.served = without_bundles(world.served)
    device = world.device()
    assert device.resolve("anomaly", 2, world.fetch).digest == digest_of("anomaly", 2)
    with pytest.raises(RefusedError, match="lists 'anomaly/2'"):
        device.resolve("other", None, world.fetch)


async def test_a_forged_bundle_is_ignored_if_the_origins_own_metadata_is_good(world: World) -> None:
    world.served = world.copy()
    role = forge(bundle.decode(world.served["bundles/anomaly"]).role, plant, CryptoSigner.generate_ed25519())
    rebundle(world.served, "anomaly", role=role)
    assert world.device().resolve("anomaly", 2, world.fetch).digest == digest_of("anomaly", 2)


@pytest.mark.parametrize("damage", [b"", b"\x01", b"\xff" * 100, b"\x01" + b"\0" * 30])
async def test_a_damaged_bundle_is_no_obstacle(world: World, damage: bytes) -> None:
    world.served = {**world.copy(), "bundles/anomaly": damage}
    assert world.device().resolve("anomaly", None, world.fetch).version == 2


async def test_a_bundle_of_another_model_is_no_obstacle_and_brings_nothing(world: World) -> None:
    await world.publish("other", 1)
    world.served = world.copy()
    world.served["bundles/anomaly"] = world.served["bundles/other"]
    assert world.device().resolve("anomaly", None, world.fetch).digest == digest_of("anomaly", 2)


async def test_mix_and_match_an_archive_is_not_taken_for_the_models_role(tmp_path: Path) -> None:
    """Both are signed by one key and may have the same number; the archive's newest version is an old one."""
    world = await World.make(tmp_path)
    await world.publish("anomaly", *range(1, 12))
    world.served = without_bundles(world.copy())
    world.served["metadata/1.anomaly.json"] = world.served["metadata/1.anomaly.archive.json"]
    device = world.device()
    with pytest.raises(RefusedError, match="another role's"):
        device.resolve("anomaly", None, world.fetch)
    world.served = world.store.objects
    assert device.resolve("anomaly", None, world.fetch).version == 11


@pytest.mark.parametrize("bundles", [True, False])
async def test_rollback_older_metadata_is_refused(world: World, bundles: bool) -> None:
    old = world.copy()
    await world.publish("anomaly", 3)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    world.served = old if bundles else without_bundles(old)
    with pytest.raises(RefusedError, match="older metadata"):
        device.resolve("anomaly", None, world.fetch)


async def test_rollback_by_a_thief_of_the_online_key_is_refused(world: World) -> None:
    """A new timestamp over an old snapshot: both rightly signed, but the snapshot went back."""
    old = world.copy()
    await world.publish("anomaly", 3)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)

    def raise_version(signed: dict[str, Any]) -> None:
        signed["version"] += 100

    world.served = without_bundles(old)
    stamp = forge(old[trust.TIMESTAMP_OBJECT], raise_version, world.online_signer())
    world.served[trust.TIMESTAMP_OBJECT] = stamp
    with pytest.raises(RefusedError, match="older metadata"):
        device.resolve("anomaly", None, world.fetch)


async def test_freeze_expired_metadata_is_refused_and_says_what_to_do(world: World) -> None:
    now = time.time()
    device = world.device(clock=lambda: now)
    assert device.resolve("anomaly", None, world.fetch).version == 2
    now += 15 * DAY
    with pytest.raises(RefusedError, match="run `modelsync refresh`"):
        device.resolve("anomaly", None, world.fetch)


async def test_freeze_a_withdrawn_version_comes_back_with_no_old_bundle(world: World) -> None:
    old = world.copy()
    await (await world.repository()).withdraw("anomaly", 2)
    device = world.device()
    assert device.resolve("anomaly", None, world.fetch).version == 1
    world.served = {**world.copy(), "bundles/anomaly": old["bundles/anomaly"]}
    with pytest.raises(RefusedError, match="withdrawn"):
        device.resolve("anomaly", 2, world.fetch)


async def test_mix_and_match_a_snapshot_of_another_time_is_refused(world: World) -> None:
    old = world.copy()
    await world.publish("anomaly", 3)
    world.served = without_bundles(world.copy())
    world.served[newest(world.served, "snapshot")] = old[newest(old, "snapshot")]
    with pytest.raises(RefusedError):
        world.device().resolve("anomaly", None, world.fetch)


async def test_mix_and_match_a_role_of_another_time_is_refused(world: World) -> None:
    old = world.copy()
    await world.publish("anomaly", 3)
    world.served = world.copy()
    stale = old[newest(old, "anomaly")]
    world.served[newest(world.served, "anomaly")] = stale
    rebundle(world.served, "anomaly", role=stale)
    with pytest.raises(RefusedError):
        world.device().resolve("anomaly", None, world.fetch)


@pytest.mark.parametrize("path", [trust.TIMESTAMP_OBJECT, "snapshot", "targets", "anomaly", "2.root"])
async def test_endless_data_is_refused_at_its_cap(world: World, path: str) -> None:
    """The line delivers one byte more than was asked for at most; whoever reads on is lost."""
    objects = without_bundles(world.copy())
    endless = path if "/" in path else f"metadata/{path}.json" if "root" in path else newest(objects, path)

    def fetch(wanted: str, max_length: int) -> bytes:
        if wanted == endless:
            assert max_length <= 5_000_000
            return b" " * (max_length + 1)
        world.served = objects
        return world.fetch(wanted, max_length)

    with pytest.raises(RefusedError, match="larger than allowed"):
        world.device().resolve("anomaly", None, fetch)


async def test_endless_data_in_a_bundle_is_capped_before_it_is_unfolded(world: World) -> None:
    world.served = world.copy()

    def fetch(path: str, max_length: int) -> bytes:
        if path == "bundles/anomaly":
            assert max_length == caps.MAX_BUNDLE_BYTES
            return b"\x01" * (max_length + 1)
        return world.fetch(path, max_length)

    assert world.device().resolve("anomaly", None, fetch).version == 2


async def test_any_damage_on_the_line_is_refused_in_our_words_or_healed(world: World) -> None:
    """Bytes flipped, cut, doubled or replaced by JSON of odd types, in any object: never a wrong digest or a crash."""
    dice = random.Random(20261120)
    good = world.copy()
    odd = [
        b"null",
        b"[]",
        b'{"signed":[]}',
        b'{"signed":{"version":Infinity}}',
        b"[" * 5000,
        b'{"signed":{"version":-1}}',
    ]
    for number in range(150):
        world.served = dict(good) if number % 2 else without_bundles(good)
        for _ in range(dice.choice((1, 1, 3))):
            path = dice.choice(sorted(world.served))
            data = bytearray(world.served[path])
            place = dice.randrange(len(data))
            data[place] ^= 1 << dice.randrange(8)
            damaged = (bytes(data), bytes(data[:place]), bytes(data) + bytes(data), dice.choice(odd))
            world.served[path] = dice.choice(damaged)
        if "bundles/anomaly" in world.served and dice.random() < 0.5:
            world.served["bundles/anomaly"] = good["bundles/anomaly"]
            rebundle(world.served, "anomaly", **{dice.choice(("timestamp", "snapshot", "role")): dice.choice(odd)})
        try:
            resolved = world.device(f"device-{number}").resolve("anomaly", 2, world.fetch)
        except ModelsyncError:
            continue
        assert resolved.digest == digest_of("anomaly", 2)


async def test_fast_forward_is_recovered_from_by_new_online_keys(world: World) -> None:
    """A thief of the online key leads a device far ahead; the operator's new keys lead it back."""
    device = world.device()
    world.served = without_bundles(world.copy())

    def far_ahead(signed: dict[str, Any]) -> None:
        signed["version"] = 10**9

    stamp = forge(world.served[trust.TIMESTAMP_OBJECT], far_ahead, world.online_signer())
    world.served[trust.TIMESTAMP_OBJECT] = stamp
    device.resolve("anomaly", None, world.fetch)
    world.served = world.store.objects
    await world.publish("anomaly", 3)
    with pytest.raises(RefusedError, match="older metadata"):
        device.resolve("anomaly", None, world.fetch)
    await rotation.rotate(await world.repository(), "online")
    await world.publish("anomaly", 4)
    assert device.resolve("anomaly", None, world.fetch).version == 4


async def test_a_revoked_online_key_signs_nothing_any_more(world: World) -> None:
    thief = world.online_signer()
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    await rotation.rotate(await world.repository(), "online")
    device.resolve("anomaly", None, world.fetch)
    world.served = without_bundles(world.copy())

    def raise_version(signed: dict[str, Any]) -> None:
        signed["version"] += 1

    stamp = forge(world.served[trust.TIMESTAMP_OBJECT], raise_version, thief)
    world.served[trust.TIMESTAMP_OBJECT] = stamp
    with pytest.raises(RefusedError, match="not signed by keys"):
        device.resolve("anomaly", None, world.fetch)


async def test_one_stolen_root_key_of_two_makes_no_new_root(tmp_path: Path) -> None:
    world = await World.make(tmp_path, root_keys=3, root_threshold=2)
    await world.publish("anomaly", 1)
    stolen = signer_from(_root_key_file(world))
    attacker = CryptoSigner.generate_ed25519()

    def take_over(signed: dict[str, Any]) -> None:
        signed["version"] = 2
        key = attacker.public_key
        signed["keys"][key.keyid] = key.to_dict()
        signed["roles"]["timestamp"]["keyids"] = [key.keyid]

    world.served = world.copy()
    world.served["metadata/2.root.json"] = forge(world.root, take_over, stolen)
    with pytest.raises(RefusedError, match="not signed by keys"):
        world.device().resolve("anomaly", None, world.fetch)


async def test_one_lost_root_key_of_three_is_replaced_by_the_other_two(tmp_path: Path) -> None:
    world = await World.make(tmp_path, root_keys=3, root_threshold=2)
    await world.publish("anomaly", 1)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    lost = _root_key_file(world)
    lost.unlink()
    await rotation.add_key(await world.repository(), "root")
    await rotation.revoke(await world.repository(), lost.stem)
    await world.publish("anomaly", 2)
    assert device.resolve("anomaly", None, world.fetch).version == 2
    assert (world.folder / "device" / "root_history" / "3.root.json").exists()


async def test_another_stores_metadata_is_refused_by_this_root(world: World, tmp_path: Path) -> None:
    stranger = await World.make(tmp_path / "stranger")
    await stranger.publish("anomaly", 1, 2, 3)
    with pytest.raises(RefusedError, match="not signed by keys"):
        world.device().resolve("anomaly", None, stranger.fetch)


async def test_a_bundle_can_not_hide_a_new_root_for_longer_than_a_day(world: World) -> None:
    """The number in a bundle is unsigned: the attacker holds it back, the daily question finds the root."""
    now = time.time()
    device = world.device(clock=lambda: now)
    device.resolve("anomaly", None, world.fetch)
    await rotation.rotate(await world.repository(), "root")
    world.served = world.copy()
    rebundle(world.served, "anomaly", root_version=1)
    device.resolve("anomaly", None, world.fetch)
    history = world.folder / "device" / "root_history"
    assert not (history / "2.root.json").exists()
    now += DAY + 1
    device.resolve("anomaly", None, world.fetch)
    assert (history / "2.root.json").exists()


async def test_a_clock_in_1970_accepts_nothing_stale(world: World) -> None:
    """Its floor is what was signed before: what had expired by then stays expired after a reboot without clock."""
    old = world.copy()
    await world.publish("anomaly", 3)
    true_time = time.time() + 20 * DAY
    late = _signed_at(world, true_time)
    world.served = late
    device = world.device(clock=lambda: 0.0)
    assert device.resolve("anomaly", None, world.fetch).version == 3
    floor = device._read_clock().floor
    assert floor == int(true_time)
    fresh = TrustStore(world.folder / "fresh", lambda: 0.0)
    fresh.seed(world.root)
    (world.folder / "fresh" / "clock.json").write_bytes((world.folder / "device" / "clock.json").read_bytes())
    world.served = old
    with pytest.raises(RefusedError, match="expired"):
        fresh.resolve("anomaly", None, world.fetch)


async def test_a_clock_in_1970_counts_as_the_build_date_and_works(world: World) -> None:
    device = world.device(clock=lambda: 0.0)
    assert device.resolve("anomaly", None, world.fetch).version == 2
    assert device._read_clock().floor >= BUILD_TIME


async def test_one_bad_jump_forward_bricks_nothing(world: World) -> None:
    now = 4_102_444_800.0  # 2100
    device = world.device(clock=lambda: now)
    with pytest.raises(RefusedError, match="set this device's clock"):
        device.resolve("anomaly", None, world.fetch)
    now = time.time()
    assert device.resolve("anomaly", None, world.fetch).version == 2


async def test_a_lie_about_the_time_of_issue_ends_with_the_liars_key(world: World) -> None:
    """A thief of the online key signs a far future: with it the floor rises, and falls again with new keys."""
    device = world.device()
    world.served = _signed_at(world, time.time() + 3000 * DAY)
    device.resolve("anomaly", None, world.fetch)
    world.served = world.store.objects
    with pytest.raises(ModelsyncError):
        device.resolve("anomaly", None, world.fetch)
    await rotation.rotate(await world.repository(), "online")
    await rotation.rotate(await world.repository(), "targets")
    assert device.resolve("anomaly", None, world.fetch).version == 2
    assert device._read_clock().floor < time.time() + DAY


def _signed_at(world: World, moment: float) -> dict[str, bytes]:
    """The store's objects as if all had been signed at `moment` with the online key."""

    def stamp(signed: dict[str, Any]) -> None:
        signed["expires"] = trust.format_time(datetime.fromtimestamp(moment + 7 * DAY, UTC))
        if signed["_type"] == "timestamp":
            signed["issued"] = trust.format_time(datetime.fromtimestamp(moment, UTC))
            signed["version"] += 1

    objects = without_bundles(world.copy())
    signer = world.online_signer()
    for path in (trust.TIMESTAMP_OBJECT, newest(objects, "snapshot"), newest(objects, "anomaly")):
        objects[path] = forge(objects[path], stamp, signer)
    if moment > time.time() + 700 * DAY:
        root_offline = {file.stem: file for file in (world.keys / "offline").glob("*.pem")}
        path = newest(objects, "targets")
        keyid = json.loads(objects[path])["signatures"][0]["keyid"]
        objects[path] = forge(objects[path], stamp, signer_from(root_offline[keyid[:16]]))
    return objects


def _root_key_file(world: World) -> Path:
    """One of the root's private key files."""
    keys = json.loads((world.keys / "keys.json").read_bytes())["roles"]["root"]
    return world.keys / str(keys[0]["uri"]).removeprefix("file2:")
