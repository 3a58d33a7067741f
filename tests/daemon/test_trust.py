"""What the device's trust store promises when nobody attacks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelsync_daemon.trust import trust_store as device_trust
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol import bundle
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.trust import NewTarget, rotation
from tests.support.trust_world import DAY, World, digest_of, without_bundles


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await World.make(tmp_path)


async def test_the_newest_version_is_resolved_and_the_last_ten_are_known(world: World) -> None:
    await world.publish("anomaly", *range(1, 13))
    resolved = world.device().resolve("anomaly", None, world.fetch)
    assert (resolved.version, resolved.newest, resolved.length) == (12, 12, 1000)
    assert resolved.digest == digest_of("anomaly", 12)
    assert resolved.versions == {version: digest_of("anomaly", version) for version in range(3, 13)}
    assert abs(resolved.issued - time.time()) < 60


async def test_an_older_version_is_found_in_the_archive(world: World) -> None:
    await world.publish("anomaly", *range(1, 13))
    device = world.device()
    device.resolve("anomaly", 12, world.fetch)
    assert not any("archive" in path for path in world.asked)
    assert device.resolve("anomaly", 1, world.fetch).digest == digest_of("anomaly", 1)
    assert sum("archive" in path for path in world.asked) == 1


async def test_the_usual_refresh_is_one_request(world: World) -> None:
    await world.publish("anomaly", 1)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    await world.publish("anomaly", 2)
    world.asked.clear()
    assert device.resolve("anomaly", None, world.fetch).version == 2
    assert world.asked == ["bundles/anomaly"]


async def test_targets_are_fetched_only_when_they_changed(world: World) -> None:
    await world.publish("anomaly", 1)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    await world.publish("other", 1)
    world.asked.clear()
    device.resolve("anomaly", None, world.fetch)
    assert world.asked == ["bundles/anomaly"], "nothing of this model has changed"
    device.resolve("other", None, world.fetch)
    device.resolve("anomaly", None, world.fetch)
    assert [path for path in world.asked if "targets" in path] == ["metadata/3.targets.json"]


async def test_a_store_without_bundles_works_through_its_metadata(world: World) -> None:
    await world.publish("anomaly", 1, 2)
    world.served = without_bundles(world.copy())
    assert world.device().resolve("anomaly", None, world.fetch).version == 2
    assert "metadata/timestamp.json" in world.asked


async def test_a_device_with_several_models_sees_no_false_rollback(world: World) -> None:
    """Its second model's bundle comes from a cache and is older than what the first one's taught it."""
    await world.publish("one", 1)
    await world.publish("two", 1)
    old = world.copy()
    await world.publish("one", 2)
    device = world.device()
    device.resolve("one", None, world.fetch)
    world.served = {**world.copy(), "bundles/two": old["bundles/two"]}
    assert device.resolve("two", None, world.fetch).version == 1
    assert "metadata/timestamp.json" not in world.asked, (
        "what the first one's bundle said of it is what this one brings"
    )
    await world.publish("two", 2)
    await world.publish("one", 3)
    world.served = {**world.copy(), "bundles/two": old["bundles/two"]}
    device.resolve("one", None, world.fetch)
    assert device.resolve("two", None, world.fetch).version == 2
    assert "metadata/timestamp.json" in world.asked, "now it is not"


async def test_a_stale_bundle_does_not_hide_a_version_that_the_twin_asks_for(world: World) -> None:
    await world.publish("anomaly", 1)
    old = world.copy()
    await world.publish("anomaly", 2)
    world.served = {**world.copy(), "bundles/anomaly": old["bundles/anomaly"]}
    assert world.device().resolve("anomaly", 2, world.fetch).version == 2


async def test_the_next_root_is_really_asked_for_once_a_day(world: World) -> None:
    await world.publish("anomaly", 1)
    now = time.time()
    device = world.device(clock=lambda: now)
    for _ in range(3):
        device.resolve("anomaly", None, world.fetch)
    assert world.asked.count("metadata/2.root.json") == 1
    now += DAY + 1
    device.resolve("anomaly", None, world.fetch)
    assert world.asked.count("metadata/2.root.json") == 2
    now -= 3 * DAY  # the clock was set back: it says nothing of how long ago the question was asked
    device.resolve("anomaly", None, world.fetch)
    assert world.asked.count("metadata/2.root.json") == 3


async def test_a_new_root_is_followed_at_once_when_the_bundle_names_it(world: World) -> None:
    await world.publish("anomaly", 1)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    await rotation.rotate(await world.repository(), "root")
    await rotation.rotate(await world.repository(), "online")
    await world.publish("anomaly", 2)
    assert device.resolve("anomaly", None, world.fetch).version == 2
    assert (world.folder / "device" / "root_history" / "3.root.json").exists()


async def test_offers_travel_in_the_bundle(world: World) -> None:
    repository = await world.repository(lambda model, versions: f"{model}:{len(versions)}".encode())
    await repository.add_targets([NewTarget("anomaly", 1, digest_of("anomaly", 1), 1000)])
    assert world.device().resolve("anomaly", None, world.fetch).offers == b"anomaly:1"


async def test_what_is_unknown_or_withdrawn_is_refused_with_its_reason(world: World) -> None:
    await world.publish("anomaly", 1, 2)
    await (await world.repository()).withdraw("anomaly", 2)
    device = world.device()
    resolved = device.resolve("anomaly", None, world.fetch)
    assert (resolved.version, resolved.withdrawn) == (1, frozenset({2}))
    with pytest.raises(RefusedError, match="withdrawn"):
        device.resolve("anomaly", 2, world.fetch)
    with pytest.raises(RefusedError, match="signs no version 9"):
        device.resolve("anomaly", 9, world.fetch)
    with pytest.raises(RefusedError, match="signs no model 'other'"):
        device.resolve("other", None, world.fetch)
    with pytest.raises(UsageError):
        device.resolve("../x", None, world.fetch)


async def test_a_model_whose_versions_are_all_withdrawn_has_none(world: World) -> None:
    await world.publish("anomaly", 1)
    await (await world.repository()).withdraw("anomaly", 1)
    with pytest.raises(RefusedError, match="no version of 'anomaly'"):
        world.device().resolve("anomaly", None, world.fetch)


async def test_names_that_tuf_uses_itself_are_good_model_names(world: World) -> None:
    for model in ("root", "targets", "snapshot", "timestamp"):
        await world.publish(model, 1)
    device = world.device()
    for model in ("root", "targets", "snapshot", "timestamp"):
        assert device.resolve(model, None, world.fetch).digest == digest_of(model, 1)


async def test_an_unreachable_origin_is_tried_again_and_an_empty_one_is_explained(world: World) -> None:
    def down(path: str, max_length: int) -> bytes:
        raise UnreachableError("the line is down: try again.")

    device = world.device()
    with pytest.raises(UnreachableError, match="line is down"):
        device.resolve("anomaly", None, down)
    world.served = {}
    with pytest.raises(UnreachableError, match="check its URL"):
        device.resolve("anomaly", None, world.fetch)


async def test_seeding_again_needs_the_same_line(world: World, tmp_path: Path) -> None:
    await world.publish("anomaly", 1)
    device = world.device()
    device.seed(world.root)
    await rotation.rotate(await world.repository(), "root")
    device.seed(world.store.objects["metadata/2.root.json"])
    device.resolve("anomaly", None, world.fetch)
    device.seed(world.store.objects["metadata/2.root.json"])
    device.seed(world.root)
    stranger = await World.make(tmp_path / "stranger")
    with pytest.raises(RefusedError, match="not of the root"):
        device.seed(stranger.root)
    with pytest.raises(RefusedError, match=r"no root\.json"):
        device.seed(b"{}")


async def test_an_unseeded_store_trusts_nobody(world: World) -> None:
    empty = TrustStore(world.folder / "empty")
    assert not empty.seeded
    with pytest.raises(RefusedError, match="--trust"):
        empty.resolve("anomaly", None, world.fetch)
    with pytest.raises(RefusedError, match=r"no root\.json"):
        empty.seed(world.store.objects["metadata/timestamp.json"])
    assert not empty.seeded


async def test_a_copied_trust_folder_goes_on_where_it_was(world: World) -> None:
    await world.publish("anomaly", 1)
    world.device().resolve("anomaly", None, world.fetch)
    shutil.copytree(world.folder / "device", world.folder / "moved")
    shutil.rmtree(world.folder / "device")
    world.asked.clear()
    TrustStore(world.folder / "moved").resolve("anomaly", None, world.fetch)
    assert world.asked == ["bundles/anomaly"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
async def test_killed_at_any_write_it_goes_on_and_remembers(world: World, call: str) -> None:
    """A child resolves a new version and is killed at its n-th write; what it left serves the next start."""
    await world.publish("anomaly", 1)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    old = world.copy()
    await world.publish("anomaly", 2)
    await world.publish("other", 1)
    survived = False
    for number in range(1, 40):
        name = f"killed-{number}"
        shutil.copytree(world.folder / "device", world.folder / name)
        if _resolve_and_die(world, name, call, number):
            survived = True
            break
        assert world.device(name).resolve("anomaly", None, world.fetch).version == 2
        assert {path.suffix for path in (world.folder / name).rglob("*") if path.is_file()} == {".json"}
        with pytest.raises(RefusedError):
            world.served = old
            world.device(name).resolve("anomaly", None, world.fetch)
        world.served = world.store.objects
    assert survived and number > 3


def _resolve_and_die(world: World, name: str, call: str, number: int) -> bool:
    """Resolve in a forked child that kills itself at the `number`-th `os.call`; whether it came to the end."""
    child = os.fork()
    if child == 0:
        real, calls = getattr(os, call), iter(range(1, 1000))

        def deadly(*arguments: object, **named: object) -> object:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(os, call, deadly)
        try:
            world.device(name).resolve("anomaly", None, world.fetch)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def test_damaged_trust_data_is_fetched_again(world: World) -> None:
    await world.publish("anomaly", 1)
    device = world.device()
    device.resolve("anomaly", None, world.fetch)
    for path in (world.folder / "device").rglob("*.json"):
        if path.name != "seed.root.json":
            path.write_bytes(b"\0" * 10)
    assert device.resolve("anomaly", None, world.fetch).version == 1


def test_importing_the_module_loads_neither_tuf_nor_zstandard() -> None:
    code = (
        "import sys, modelsync_daemon.trust.trust_store; sys.exit(any(n in sys.modules for n in ('tuf', 'zstandard')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_private_parts_of_python_tuf_that_we_use_are_there() -> None:
    """ADR 3: if a new python-tuf fails here, tuf_refresh.py has to be looked at before the pin moves."""
    from importlib.metadata import version
    from inspect import signature

    from tuf.ngclient import Updater
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

    assert version("tuf") == "7.0.1"
    assert list(signature(Updater._load_targets).parameters) == ["self", "role", "parent_role"]
    assert list(signature(Updater._persist_file).parameters) == ["self", "filename", "data"]
    assert list(signature(Updater._persist_root).parameters) == ["self", "version", "data"]
    assert callable(Updater._update_root_symlink)
    assert "reference_time" in TrustedMetadataSet.__init__.__code__.co_names


def test_the_build_date_is_in_the_past() -> None:
    assert time.time() > device_trust.BUILD_TIME
    assert bundle.FORMAT == 1
