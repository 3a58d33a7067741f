"""What a policy keeps, whom it strands, and that nothing is collected that anybody needs."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from modelsync_daemon.trust.resolved import ObjectMissing
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol import names, trust
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.publish.price import price
from modelsync_server.publish.publisher import publish
from modelsync_server.publish.verifier import parse_sample, verify
from modelsync_server.retention import collecting, policy
from modelsync_server.retention.collecting import collect
from modelsync_server.retention.policy import Policy, Use
from modelsync_server.retention.retaining import plan, prune
from modelsync_server.store import MemoryStore, StoreConflict, collected
from modelsync_server.store.collected import MARK
from modelsync_server.store.published import read_manifest
from modelsync_server.trust import Repository, initialise, read_catalogue
from tests.support.stores import Crashed, CrashingStore

NO_GRACE = timedelta(0)


class Shelf:
    """A store in memory with versions of some models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.keys = str(folder / "keys")
        self.root = b""

    async def fill(self, **versions: int) -> None:
        self.root = (await initialise(self.store, self.keys)).trust_file.read_bytes()
        for model, count in versions.items():
            for number in range(1, count + 1):
                await self.publish(model, number)

    async def publish(self, model: str, number: int) -> None:
        chance = random.Random(model)
        data = bytearray(chance.randbytes(6000))
        for place in range(number):
            data[place * 50 : place * 50 + 8] = random.Random(f"{model} {place}").randbytes(8)
        path = self.folder / "model.bin"
        path.write_bytes(bytes(data))
        await publish(self.store, self.keys, model, path, metadata={"n": number})

    async def repository(self) -> Repository:
        return await Repository.open(self.store, self.keys)

    def fetch(self, path: str, limit: int) -> bytes:
        if path not in self.store.objects:
            raise ObjectMissing(path)
        return self.store.objects[path]

    async def digests(self, model: str) -> dict[int, str]:
        return dict((await read_catalogue(self.store)).model(model).versions)


@pytest.fixture
async def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path)
    await shelf.fill(a=6, b=2)
    return shelf


async def test_the_newest_and_what_twins_name_stay_whatever_the_policy_says(shelf: Shelf) -> None:
    digests = await shelf.digests("a")
    use = Use({digests[1]: 3, "f" * 64: 2}, {2: 1, 9: 4})
    made = await plan(shelf.store, Policy(keep=1, max_bytes=0), {"a": use})
    assert made.prune == {"a": [3, 4, 5], "b": [1]}
    told = {(each.version, each.devices) for each in made.stranded}
    assert {(None, 2), (9, 4)} <= told, "bytes of nobody's, and a version that never was"
    assert (1, 3) not in told, "an update leads from version 1 to the newest"
    with pytest.raises(UsageError, match="say what to keep"):
        await plan(shelf.store, Policy(), {})
    with pytest.raises(UsageError, match="no model 'c'"):
        await plan(shelf.store, Policy(keep=1), {}, "c")


async def test_what_is_said_to_be_freed_is_freed_and_the_store_stays_whole(shelf: Shelf) -> None:
    made = await plan(shelf.store, Policy(keep=2), {}, "a")
    assert made.prune == {"a": [1, 2, 3, 4]}
    before = {path: len(data) for path, data in shelf.store.objects.items()}
    await prune(shelf.store, shelf.keys, made)
    assert (await verify(shelf.store)).problems == ()
    assert sorted(await shelf.digests("a")) == [5, 6]
    assert (await collect(shelf.store)).objects == 0, "what is a day old at most is left alone"
    dry = await collect(shelf.store, grace=NO_GRACE, dry_run=True)
    done = await collect(shelf.store, grace=NO_GRACE)
    assert (done.objects, done.bytes) == (dry.objects, dry.bytes)
    gone = {path: size for path, size in before.items() if path not in shelf.store.objects}
    content = {path: size for path, size in gone.items() if not path.startswith(("metadata/", "bundles/", "releases/"))}
    assert (len(content), sum(content.values())) == (made.objects, made.bytes)
    assert (await verify(shelf.store)).problems == ()
    assert (await collect(shelf.store, grace=NO_GRACE)).objects == 0
    assert MARK not in shelf.store.objects


async def test_a_pruned_version_is_not_withdrawn_and_its_number_is_not_used_again(shelf: Shelf) -> None:
    await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=2), {}, "a"))
    model = (await read_catalogue(shelf.store)).model("a")
    assert (model.withdrawn, model.pruned, model.last) == (frozenset(), 4, 6)
    with pytest.raises(RefusedError, match="is taken"):
        await publish(shelf.store, shelf.keys, "a", shelf.folder / "model.bin", version=3)

    device = TrustStore(shelf.folder / "device")
    device.seed(shelf.root)
    resolved = device.resolve("a", None, shelf.fetch)
    assert (resolved.version, resolved.withdrawn) == (6, frozenset())
    with pytest.raises(RefusedError, match="signs no version 2"):
        device.resolve("a", 2, shelf.fetch)
    with pytest.raises(UsageError, match="always stays"):
        await (await shelf.repository()).prune("a", [6])


async def test_an_update_from_withdrawn_bytes_stays_for_those_who_run_them(shelf: Shelf) -> None:
    digests = await shelf.digests("a")
    await (await shelf.repository()).withdraw("a", 5)
    await collect(shelf.store, grace=NO_GRACE)
    held, _, _ = await read_manifest_or_none(shelf.store, digests[5])
    assert held is None, "nobody may fetch it any more"
    assert names.update_object(digests[6], digests[5]) in shelf.store.objects


async def read_manifest_or_none(store: MemoryStore, digest: str) -> tuple[object, object, int]:
    try:
        return await read_manifest(store, digest)
    except RefusedError:
        return None, None, 0


async def test_a_model_published_again_while_its_objects_are_collected_is_whole(shelf: Shelf) -> None:
    """The same bytes come back as a new version: their old objects, which nothing names, are found and relied on."""
    digests = await shelf.digests("a")
    await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=1), {}, "a"))

    class Between(MemoryStore):
        """Collects all garbage in the moment before the timestamp that signs the new version is written."""

        collected = False

        async def replace(self, path: str, data: bytes, if_etag: str) -> str:
            if path == trust.TIMESTAMP_OBJECT and not self.collected:
                self.collected = True
                assert (await collect(shelf.store, grace=NO_GRACE)).objects
                assert names.manifest_object(digests[2]) not in self.objects
            return await super().replace(path, data, if_etag)

    between = Between()
    between.objects = shelf.store.objects
    shelf.store, inner = between, shelf.store
    await shelf.publish("a", 2)
    assert between.collected and (await shelf.digests("a"))[7] == digests[2]
    shelf.store = inner
    assert (await verify(between)).problems == ()
    assert (await price(between, digests[2], None)).bytes > 0


async def test_a_version_signed_between_mark_and_deletion_keeps_its_objects(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = await shelf.digests("a")
    await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=1), {}, "a"))
    monkeypatch.setattr(collected, "_PAUSE", 0)
    original = shelf.store.create

    async def create(path: str, source: bytes | Path) -> None:
        await original(path, source)
        if path == MARK:
            await shelf.publish("a", 3)

    monkeypatch.setattr(shelf.store, "create", create)
    await collect(shelf.store, grace=NO_GRACE)
    assert (await shelf.digests("a"))[7] == digests[3]
    assert (await verify(shelf.store)).problems == ()


@pytest.mark.parametrize("lot", [1, 3])
async def test_a_publisher_keeps_what_a_slow_collector_has_not_begun_to_delete(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, lot: int
) -> None:
    """It comes when the signatures were read again, and waits less long than deleting takes."""
    digests = await shelf.digests("a")
    await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=1), {}))
    monkeypatch.setattr(collecting, "_CLAIMED", lot)
    monkeypatch.setattr(collected, "_PAUSE", 0)
    monkeypatch.setattr(collected, "_LOOKS", 2)
    original, deleted = shelf.store.delete, list[str]()

    async def delete(path: str) -> None:
        if not deleted:  # its manifest or another's is claimed; the packs of all are not
            deleted.append(path)
            await shelf.publish("a", 3)
        await original(path)

    monkeypatch.setattr(shelf.store, "delete", delete)
    assert (await collect(shelf.store, grace=NO_GRACE)).objects
    assert (await shelf.digests("a"))[7] == digests[3]
    assert (await verify(shelf.store)).problems == ()
    assert MARK not in shelf.store.objects
    assert names.manifest_object(digests[2]) not in shelf.store.objects, "what nobody took out is gone"


async def test_what_a_publisher_said_in_the_same_words_before_stays(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release record is found there by its digest as packs are."""
    record = (await read_catalogue(shelf.store)).model("a").releases[6]
    path = names.release_object(record)
    assert await collected.is_whole(shelf.store, (await shelf.digests("a"))[6], [path])
    del shelf.store.objects[path]
    assert not await collected.is_whole(shelf.store, (await shelf.digests("a"))[6], [path])


async def test_a_collector_whose_mark_was_taken_over_stops_and_leaves_the_others(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=1), {}, "a"))
    original = shelf.store.create
    theirs = json.dumps({"format": 1, "since": trust.format_time(datetime.now(UTC)), "objects": [], "by": "another"})

    async def create(path: str, source: bytes | Path) -> None:
        await original(path, theirs.encode() if path == MARK else source)

    monkeypatch.setattr(shelf.store, "create", create)
    before = set(shelf.store.objects)
    with pytest.raises(StoreConflict, match="taken over"):
        await collect(shelf.store, grace=NO_GRACE)
    assert shelf.store.objects.keys() - before == {MARK}
    assert shelf.store.objects[MARK] == theirs.encode()


async def test_a_mark_that_cant_be_read_stops_no_publisher_and_is_no_collectors(shelf: Shelf) -> None:
    await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=1), {}, "a"))
    digest = (await shelf.digests("a"))[6]
    for mark in (b"", b"[]", b"{}", b'{"objects": 1}', b'{"objects": [[]], "going": 1}', b"\xff"):
        shelf.store.objects[MARK] = mark
        assert await collected.is_whole(shelf.store, digest)
        with pytest.raises(StoreConflict, match="another `modelsync gc`"):
            await collect(shelf.store, grace=NO_GRACE)


async def test_a_second_collector_is_told_and_a_crashed_ones_mark_lapses(shelf: Shelf) -> None:
    await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=1), {}, "a"))
    moment = datetime.now(UTC)
    mark = {"format": 1, "since": trust.format_time(moment), "objects": []}
    shelf.store.objects[MARK] = json.dumps(mark).encode()
    with pytest.raises(StoreConflict, match="another `modelsync gc`"):
        await collect(shelf.store, grace=NO_GRACE)
    assert (await collect(shelf.store, grace=NO_GRACE, now=lambda: moment + timedelta(hours=2))).objects


async def test_pruning_and_collecting_may_break_off_at_any_write(shelf: Shelf) -> None:
    untouched = dict(shelf.store.objects)
    for at in range(1, 200, 3):
        shelf.store.objects.clear()
        shelf.store.objects.update(untouched)
        failing = CrashingStore(shelf.store, at, after=False)
        try:
            made = await plan(failing, Policy(keep=2), {}, "a")
            await prune(failing, shelf.keys, made)
            await collect(failing, grace=NO_GRACE)
        except Crashed:
            pass
        else:
            break
        problems = (await verify(shelf.store)).problems
        assert all(problem.startswith("bundles/") for problem in problems), "hints at updates that have gone, no more"
        await prune(shelf.store, shelf.keys, await plan(shelf.store, Policy(keep=2), {}, "a"))
        later = datetime.now(UTC) + timedelta(hours=2)
        await collect(shelf.store, grace=NO_GRACE, now=partial(later.astimezone, UTC))
        assert (await verify(shelf.store)).problems == () and sorted(await shelf.digests("a")) == [5, 6]
    assert at > 3


async def test_a_plan_that_is_out_of_date_prunes_nothing(shelf: Shelf) -> None:
    made = await plan(shelf.store, Policy(keep=2), {}, "a")
    made.digests["a"][1] = "e" * 64  # type: ignore[index]
    with pytest.raises(RefusedError, match="has changed since"):
        await prune(shelf.store, shelf.keys, made)
    assert len(await shelf.digests("a")) == 6


def test_room_is_made_by_the_oldest_of_the_model_that_has_most() -> None:
    models = {"x": {n: f"x{n}" for n in (1, 2, 3, 4)}, "y": {1: "y1", 2: "y2"}}
    needs = {d: {d: 10, "both": 5} for versions in models.values() for d in versions.values()}
    assert policy.choose(models, {}, Policy(max_bytes=65), needs) == {}
    assert policy.choose(models, {}, Policy(max_bytes=50), needs) == {"x": [1, 2]}
    assert policy.choose(models, {}, Policy(max_bytes=0), needs) == {"x": [1, 2, 3], "y": [1]}
    assert policy.choose(models, {"x": Use({"x1": 1})}, Policy(max_bytes=0), needs) == {"x": [2, 3], "y": [1]}


async def test_a_sample_is_as_large_as_was_asked_for_and_finds_damage_in_it(shelf: Shelf) -> None:
    assert [parse_sample(text, 200) for text in ("3", "500", "5%", "0.1%", "100%")] == [3, 200, 10, 1, 200]
    for wrong in ("0", "-1", "101%", "x", "5 %%"):
        with pytest.raises(UsageError, match="--sample takes"):
            parse_sample(wrong, 10)
    assert (await verify(shelf.store, "3")).versions == 3
    assert (await verify(shelf.store, "25%", seed=1)).versions == 2
    del shelf.store.objects[names.manifest_object((await shelf.digests("a"))[3])]
    assert (await verify(shelf.store, "100%")).problems
    found = [bool((await verify(shelf.store, "2", seed=seed)).problems) for seed in range(8)]
    assert any(found) and not all(found)
