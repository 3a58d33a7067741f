"""Publishing through the library: what a new version is, what is stored, what it will cost."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol import bundle, canonical, names, offers
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_protocol.manifest import PROBE_PATH, EmptyDirectory, Link
from modelsync_protocol.plan import Kind
from modelsync_server.encode.encoder import Source, encode_update
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.packer import pack
from modelsync_server.publish.publisher import Release, publish
from modelsync_server.publish.verifier import price_of, verify
from modelsync_server.store import MemoryStore
from modelsync_server.store.published import materialised, published_sizes, read_manifest
from modelsync_server.trust import NewTarget, Repository, initialise, read_catalogue


def noise(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


class Press:
    """A store in memory, its keys, and a short way to publish bytes as `model.bin`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys = str(root / "keys")
        self.store = MemoryStore()

    @classmethod
    async def open(cls, root: Path) -> Press:
        root.mkdir(exist_ok=True)
        press = cls(root)
        await initialise(press.store, press.keys)
        return press

    async def put(
        self, content: bytes, name: str = "m", version: int | None = None, bases: tuple[int, ...] = ()
    ) -> Release:
        path = self.root / "model.bin"
        path.write_bytes(content)
        return await publish(self.store, self.keys, name, path, version=version, bases=bases)

    def bytes_below(self, prefix: str) -> int:
        return sum(len(data) for path, data in self.store.objects.items() if path.startswith(prefix))


@pytest.fixture
async def press(tmp_path: Path) -> Press:
    return await Press.open(tmp_path)


async def test_the_same_bytes_again_are_no_new_version(press: Press) -> None:
    first = await press.put(b"one" * 100)
    before = dict(press.store.objects)
    again = await press.put(b"one" * 100)
    assert (first.version, first.fresh, again.version, again.fresh) == (1, True, 1, False)
    assert press.store.objects == before
    assert (await press.put(b"one" * 100, name="other")).version == 1


async def test_going_back_to_old_bytes_is_a_new_version_that_costs_little(press: Press) -> None:
    old, new = noise(1, 9000), noise(2, 9000)
    await press.put(old)
    await press.put(new)
    packs = press.bytes_below("packs/")
    back = await press.put(old)
    assert (back.version, back.fresh) == (3, True)
    assert press.bytes_below("packs/") == packs, "the frames of version 1 are there already"
    assert [update.base for update in back.updates] == [2]
    model = (await read_catalogue(press.store)).models["m"]
    assert model.versions[3] == model.versions[1] != model.versions[2]
    assert (await price_of(press.store, "m", 1, 3)).kind == Kind.HELD


async def test_a_version_can_be_chosen_once(press: Press) -> None:
    assert (await press.put(b"a", version=7)).version == 7
    assert (await press.put(b"b")).version == 8
    assert (await press.put(b"c", version=3)).version == 3
    again = await press.put(b"a", version=7)
    assert (again.version, again.fresh) == (7, False)
    before = dict(press.store.objects)
    with pytest.raises(RefusedError, match="version 7 of 'm' is taken"):
        await press.put(b"d", version=7)
    assert press.store.objects == before, "nothing is written for a version that is refused"
    for bad in (0, -1, 2**52, True):
        with pytest.raises(UsageError):
            await press.put(b"e", version=bad)


async def test_a_withdrawn_number_is_not_used_again(press: Press) -> None:
    await press.put(b"a" * 50)
    await press.put(b"b" * 50)
    await (await Repository.open(press.store, press.keys)).withdraw("m", 2)
    with pytest.raises(RefusedError):
        await press.put(b"c", version=2)
    assert (await press.put(b"a" * 50)).version == 1, "the newest that is left has these bytes"
    assert (await press.put(b"c" * 50)).version == 3
    assert (await verify(press.store)).problems == ()


async def test_updates_come_from_the_last_five_versions_and_from_those_asked_for(press: Press) -> None:
    contents = [noise(9, 6000) + bytes([n]) * 40 for n in range(8)]
    for content in contents[:7]:
        published = await press.put(content)
    assert [update.base for update in published.updates] == [6, 5, 4, 3, 2]
    more = await press.put(contents[7], bases=(1, 7))
    assert [update.base for update in more.updates] == [7, 6, 5, 4, 3, 1]
    later = await press.put(contents[7], bases=(2,))
    assert (later.version, later.fresh) == (8, False)
    assert [update.base for update in later.updates] == [7, 6, 5, 4, 3, 2, 1], "more updates to what is published"
    for update in later.updates:
        plan = await price_of(press.store, "m", update.base, 8)
        assert (plan.kind, plan.bytes, plan.http_requests) == (Kind.UPDATE, update.bytes, update.requests)
    with pytest.raises(UsageError, match="version 99 is not published"):
        await press.put(b"x", bases=(99,))


async def test_a_price_is_what_publishing_predicted(press: Press) -> None:
    for n in range(3):
        published = await press.put(noise(5, 40_000) + noise(n, 3000))
        install = await price_of(press.store, "m", None, published.version)
        assert (install.kind, install.bytes) == (Kind.PACK, published.install_bytes)
        total = len(press.store.objects[names.manifest_object(published.manifest)])
        assert install.bytes == total + sum(request.length for request in install.requests)
        for update in published.updates:
            plan = await price_of(press.store, "m", update.base, published.version)
            assert plan.bytes == update.bytes == len(press.store.objects[plan.requests[0].path])
    assert (await price_of(press.store, "m", 3, 3)).bytes == 0
    with pytest.raises(UsageError):
        await price_of(press.store, "m", 1, 4)
    with pytest.raises(UsageError):
        await price_of(press.store, "nothing", None, 1)


async def test_a_tree_keeps_modes_links_empty_files_and_empty_directories(press: Press) -> None:
    tree = press.root / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "void" / "deep").mkdir(parents=True)
    for path, mode in (("bin/run", 0o755), ("model.onnx", 0o640), ("empty", 0o600), ("ünïcödé name", 0o644)):
        (tree / path).write_bytes(b"" if path == "empty" else path.encode() * 9)
        (tree / path).chmod(mode)
    (tree / "latest").symlink_to("model.onnx")
    (tree / "bin" / "up").symlink_to("../void")
    (tree / "bin" / "dangling").symlink_to("nowhere")
    published = await publish(press.store, press.keys, "m", tree)
    manifest, _, _ = await read_manifest(press.store, published.manifest)
    assert [entry.path for entry in manifest.entries] == [
        "bin/dangling", "bin/run", "bin/up", "empty", "latest", "model.onnx", "void/deep", "ünïcödé name",
    ]  # fmt: skip
    entries = {entry.path: entry for entry in manifest.entries}
    assert entries["void/deep"] == EmptyDirectory("void/deep")
    assert entries["latest"] == Link("latest", "model.onnx")
    assert entries["bin/up"] == Link("bin/up", "../void")
    modes = {file.path: file.mode for file in manifest.files}
    assert modes == {"bin/run": 0o755, "empty": 0o600, "model.onnx": 0o640, "ünïcödé name": 0o644}
    assert published.files == 4
    async with materialised(press.store, published.manifest) as source:
        for file, begin in zip(manifest.files, manifest.file_offsets, strict=False):
            assert bytes(source.stream[begin : begin + file.size]) == (tree / file.path).read_bytes()
    (tree / "bin" / "run").chmod(0o700)
    changed = await publish(press.store, press.keys, "m", tree)
    assert (changed.version, changed.updates[0].bytes < 150) == (2, True)


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_tiny_artifacts_are_published_and_updated(press: Press, content: bytes) -> None:
    await press.put(content)
    await press.put(b"yy")
    await press.put(content)
    assert (await verify(press.store)).problems == ()


async def test_the_mode_of_a_lone_file_is_no_new_version(press: Press) -> None:
    await press.put(b"model")
    (press.root / "model.bin").chmod(0o600)
    assert (await press.put(b"model")).version == 1


async def test_a_probe_becomes_a_file_of_the_artifact(press: Press) -> None:
    model, probe = press.root / "a.onnx", press.root / "probe.json"
    model.write_bytes(b"model")
    probe.write_text(json.dumps({"format": 1, "cases": [{"inputs": {}}]}))
    published = await publish(press.store, press.keys, "m", model, probe=probe)
    manifest, _, _ = await read_manifest(press.store, published.manifest)
    assert ([file.path for file in manifest.files], manifest.probe) == ([PROBE_PATH, "a.onnx"], PROBE_PATH)
    fifo = press.root / "fifo"
    os.mkfifo(fifo)
    probe.write_text("no JSON")
    (press.root / "other.json").write_text('{"format":2,"cases":[]}')
    for bad in (fifo, probe, press.root / "other.json", press.root / "missing", press.root):
        with pytest.raises(UsageError):
            await publish(press.store, press.keys, "m", model, probe=bad)


async def test_one_changed_file_of_two_thousand_costs_itself_and_one_request(press: Press) -> None:
    tree = press.root / "tree"
    for n in range(2000):
        path = tree / f"{n % 40:02}" / f"file{n:04}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the content of file {n}")
    await publish(press.store, press.keys, "m", tree)
    (tree / "17" / "file0017.txt").write_bytes(noise(1, 3000))
    published = await publish(press.store, press.keys, "m", tree)
    assert (published.files, published.updates[0].requests) == (2000, 1)
    assert 3000 < published.updates[0].bytes < 3000 + 150
    assert (await price_of(press.store, "m", None, 2)).http_requests <= 4


async def test_a_model_with_one_changed_tensor_stores_little_more_than_that_tensor(press: Press) -> None:
    tensors = [noise(n, 256 * 1024) for n in range(4)]

    def file() -> bytes:
        size = 256 * 1024
        offsets = {
            f"w{n}": {"dtype": "U8", "shape": [size], "data_offsets": [n * size, (n + 1) * size]} for n in range(4)
        }
        header = json.dumps(offsets).encode()
        return len(header).to_bytes(8, "little") + header + b"".join(tensors)

    path = press.root / "m.safetensors"
    path.write_bytes(file())
    await publish(press.store, press.keys, "m", path)
    first = press.bytes_below("packs/")
    tensors[1] = noise(50, 256 * 1024)
    path.write_bytes(file())
    published = await publish(press.store, press.keys, "m", path)
    assert press.bytes_below("packs/") - first < 257 * 1024 + 500
    assert published.updates[0].bytes < 257 * 1024
    assert (await price_of(press.store, "m", None, 2)).http_requests <= 5
    assert (await verify(press.store)).problems == ()


async def test_first_installs_need_few_requests_however_many_versions_the_packs_come_from(press: Press) -> None:
    tree = press.root / "tree"
    tree.mkdir()
    for n in range(10):
        (tree / f"f{n}").write_bytes(noise(n, 9000))
    for version in range(8):
        (tree / f"f{version}").write_bytes(noise(100 + version, 9000))
        await publish(press.store, press.keys, "m", tree)
    install = await price_of(press.store, "m", None, 8)
    assert install.http_requests <= install.bytes // (256 * 1024) + 3


async def test_the_result_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    old, new = tmp_path / "old.bin", tmp_path / "new.bin"
    text = b"".join(b"line %d of a log\n" % (n * n % 7919) for n in range(9000))
    old.write_bytes(text + noise(1, 60_000))
    new.write_bytes(text[:50_000] + b"edit" + text[50_400:] + noise(1, 60_000) + text[:90_000])
    results = []
    for threads in (1, 4):
        with snapshot(old) as a, snapshot(new) as b, ThreadPoolExecutor(threads) as pool:
            base, target = Source(a.manifest, a.stream), Source(b.manifest, b.stream)
            index, packs = pack(target, {}, pool, lambda step, done, total: None)
            digests = {name: data.digest() for name, data in packs.items()}
            results.append((encode_update(base, target, pool), index, digests))
    assert results[0] == results[1]


async def test_a_store_with_twenty_models_of_a_hundred_versions_adds_nothing_to_an_update(tmp_path: Path) -> None:
    contents = [noise(1, 20_000), noise(1, 19_000) + noise(2, 1000)]
    sizes = {}
    for kind in ("fresh", "crowded"):
        press = await Press.open(tmp_path / kind)
        if kind == "crowded":
            repository = await Repository.open(press.store, press.keys)
            others = [f"model{n:02}" for n in range(19)]
            await repository.add_targets(
                [
                    NewTarget(name, version, canonical.digest(f"{name} {version}".encode()), 900)
                    for name in ["m", *others]
                    for version in range(1, 99 if name == "m" else 101)
                ]
            )
        for content in contents:
            published = await press.put(content)
        sizes[kind] = (published.updates[0].bytes, len(press.store.objects[names.bundle_object("m")]))
    assert published.version == 100
    assert sizes["crowded"][0] == sizes["fresh"][0] < 1000 + 150
    assert sizes["fresh"][1] < 800
    assert sizes["crowded"][1] < sizes["fresh"][1] + 600


async def test_the_bundle_offers_what_was_predicted(press: Press) -> None:
    await press.put(b"one" * 500)
    published = await press.put(b"one" * 500 + b"two")
    listed = offers.decode(bundle.decode(press.store.objects[names.bundle_object("m")]).offers)
    assert sorted(listed) == [1, 2]
    digest = (await read_catalogue(press.store)).models["m"].versions[1]
    assert listed[2].update_bytes(digest) == published.updates[0].bytes
    assert listed[2].install_bytes == published.install_bytes
    assert await published_sizes(press.store, published.manifest) == {digest: published.updates[0].bytes}


def test_chunks_of_a_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    """A snapshot reads the files as they are, and the manifest says so."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(noise(3, 100_000))
    with snapshot(tmp_path / "d") as artifact:
        (file,) = artifact.manifest.files
        assert file.size == 100_000
        assert bytes(artifact.stream) == noise(3, 100_000)
