"""Publishing on an engine: the same bytes, whatever dies; nothing that is not so is signed; nothing is done twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.engine import Call, Engine, open_engine
from modelsync_server.engine.local import LocalEngine
from modelsync_server.publish import objects, staging
from modelsync_server.publish.publisher import Release, publish
from modelsync_server.publish.verifier import verify
from modelsync_server.store import MemoryStore, Store, create_store, open_store
from modelsync_server.trust import initialise, read_catalogue
from tests.support.stores import Crashed, CrashingStore

VERSIONS = 3


def made(version: int) -> bytes:
    """A file of 72 KiB in which every version changes another stretch."""
    data = bytearray(np.random.default_rng(7).bytes(72 * 1024))
    for number in range(1, version):
        data[number * 9000 : number * 9000 + 3000] = np.random.default_rng(number).bytes(3000)
    return bytes(data)


async def history(store: Store, keys: str, folder: Path, count: int) -> None:
    for version in range(1, count + 1):
        await publish(store, keys, "m", written(folder, version))


def written(folder: Path, version: int) -> Path:
    path = folder / "model.bin"
    path.write_bytes(made(version))
    return path


def contents(store: Path) -> dict[str, bytes]:
    """All that is no metadata: that has dates and signatures."""
    found = (path for kind in ("packs", "manifests", "updates", "work") for path in (store / kind).rglob("*"))
    return {str(path.relative_to(store)): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a publication without an engine leaves."""
    root = tmp_path_factory.mktemp("plain")
    asyncio.run(_plain(root))
    return contents(root / "store")


async def _plain(root: Path) -> None:
    store = create_store(str(root / "store"))
    await initialise(store, str(root / "keys"))
    await history(store, str(root / "keys"), root, VERSIONS)


class FarEngine(LocalEngine):
    """The local engine as if its workers were on other machines: they get their inputs from the store."""

    shares_disk = False


def engines() -> dict[str, Callable[[], Engine | None]]:
    return {
        "one worker": lambda: open_engine("local", workers=1),
        "three workers": lambda: open_engine("local", workers=3),
        "workers elsewhere": lambda: FarEngine(2),
        "dask": lambda: open_engine("dask", workers=2),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "workers elsewhere",
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("one worker", "three workers", "dask")),
    ],
)
async def test_the_bytes_are_the_same_on_any_engine(kind: str, tmp_path: Path, plain: dict[str, bytes]) -> None:
    store, keys = create_store(str(tmp_path / "store")), str(tmp_path / "keys")
    await initialise(store, keys)
    await history(store, keys, tmp_path, VERSIONS - 1)
    engine = engines()[kind]()
    assert engine is not None
    release = await on(engine, store, keys, written(tmp_path, VERSIONS))
    found = contents(tmp_path / "store")
    staged = {path for path in found if path.startswith("work/")}
    assert {path: data for path, data in found.items() if path not in staged} == plain
    assert not staged, "what workers were given goes when it is signed, whatever its size"
    assert release.work.tasks == 1 + (VERSIONS - 1) + (release.install_bytes > 65536)
    assert (release.work.resumed, release.work.retried) == (0, 0)
    assert (await verify(store)).problems == ()


async def on(engine: Engine, store: Store, keys: str, path: Path, **options: Any) -> Release:
    try:
        return await publish(store, keys, "m", path, engine=engine, **options)
    finally:
        await engine.close()


def workers(of: int) -> Iterator[int]:
    """Process ids of the local engine's workers that `of` started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == of and b"modelsync_server.engine.worker" in command:
                yield int(entry.name)


async def test_a_worker_that_is_killed_in_the_middle_changes_nothing(tmp_path: Path, plain: dict[str, bytes]) -> None:
    store, keys = create_store(str(tmp_path / "store")), str(tmp_path / "keys")
    await initialise(store, keys)
    await history(store, keys, tmp_path, VERSIONS - 1)
    killed: list[int] = []

    def kill(step: str, done: int, total: int) -> None:
        if step.startswith("encoding, 1 of") and total > len(made(VERSIONS)) and not killed:
            killed.extend(workers(os.getpid()))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    release = await on(LocalEngine(2), store, keys, written(tmp_path, VERSIONS), progress=kill)
    assert killed
    assert release.work.retried >= 1
    assert contents(tmp_path / "store") == plain


class LyingEngine(LocalEngine):
    """Its workers do their work; then somebody changes what they left in the store, or what they said."""

    def __init__(self, lie: Callable[[Any], None]) -> None:
        super().__init__(1)
        self._lie = lie

    async def run(self, calls: Sequence[Call], finished: Any = lambda number, answer: None) -> list[Any]:
        answers = await super().run(calls, finished)
        for call, answer in zip(calls, answers, strict=True):
            if call.arguments["task"]["kind"] == "update":
                self._lie(answer)
        return answers


def _other_digest(answer: Any) -> None:
    answer["objects"][0][2] = "0" * 64


def _other_path(answer: Any) -> None:
    answer["objects"][0][0] = "metadata/timestamp.json"


def _nonsense(answer: Any) -> None:
    del answer["objects"]


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (_other_digest, "not those that its worker made"),
        pytest.param(_other_path, "no part of the update", marks=pytest.mark.long),
        pytest.param(_nonsense, "can't be read", marks=pytest.mark.long),
    ],
)
async def test_nothing_is_signed_of_what_a_worker_says_wrongly(
    tmp_path: Path, lie: Callable[[Any], None], sentence: str
) -> None:
    store, keys = create_store(str(tmp_path / "store")), str(tmp_path / "keys")
    await initialise(store, keys)
    await history(store, keys, tmp_path, 1)
    with pytest.raises(RefusedError, match=f"{sentence}.*nothing was signed"):
        await on(LyingEngine(lie), store, keys, written(tmp_path, 2))
    assert sorted((await read_catalogue(store)).model("m").versions) == [1]


@pytest.mark.long
async def test_an_update_in_the_store_that_is_for_another_version_is_not_signed(tmp_path: Path) -> None:
    store, keys = create_store(str(tmp_path / "store")), str(tmp_path / "keys")
    await initialise(store, keys)
    await history(store, keys, tmp_path, 2)
    earlier = next((tmp_path / "store" / "updates").rglob("*.v*"))

    def swap(answer: Any) -> None:
        written_there = tmp_path / "store" / answer["objects"][0][0]
        written_there.write_bytes(earlier.read_bytes())
        answer["objects"][0][1:] = [earlier.stat().st_size, hashlib.sha256(earlier.read_bytes()).hexdigest()]

    with pytest.raises(RefusedError, match="nothing was signed"):
        await on(LyingEngine(swap), store, keys, written(tmp_path, 3))


async def test_a_store_in_memory_has_no_other_process(tmp_path: Path) -> None:
    store, keys = MemoryStore(), str(tmp_path / "keys")
    await initialise(store, keys)
    with pytest.raises(UsageError, match="in one process only"):
        await on(LocalEngine(1), store, keys, written(tmp_path, 1))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small models too it is kept what is done."""
    monkeypatch.setattr(objects, "KEPT_FROM_BYTES", 1)


@pytest.mark.long
@pytest.mark.usefixtures("small")
async def test_what_an_interrupted_publication_did_is_not_done_again(tmp_path: Path) -> None:
    """The publisher ends after every one of its writes in turn: each task is then done once, and once only."""
    store, keys = MemoryStore(), str(tmp_path / "keys")
    await initialise(store, keys)
    await history(store, keys, tmp_path, 2)
    path, untouched = written(tmp_path, 3), dict(store.objects)
    whole = await publish(store, keys, "m", path)
    signed = {name: data for name, data in store.objects.items() if name.startswith(("packs", "manifests", "updates"))}
    assert whole.work.tasks == 4, "packs, a first install, two updates"
    resumed = set()
    for at in range(1, 40):
        store.objects.clear()
        store.objects.update(untouched)
        try:
            await publish(CrashingStore(store, at, after=True), keys, "m", path)
        except Crashed:
            pass
        else:
            break
        there = [name for name in store.objects if name.startswith("work/") and name[-33] == "-"]
        again = await publish(store, keys, "m", path)
        resumed.add(again.work.resumed)
        packed = [name for name in there if "/packs-" in name]
        if again.fresh:  # else it was signed already, and there was nothing left to do
            assert again.work.resumed == len(there) - len(packed), f"write {at}: {there}"
        assert {name: store.objects.get(name) for name in signed} == signed
        assert not [name for name in store.objects if name.startswith(staging.PREFIX)]
    assert {0, 1, 2} <= resumed, resumed


@pytest.mark.usefixtures("small")
async def test_of_what_is_kept_nothing_is_believed_unseen(tmp_path: Path) -> None:
    store, keys = MemoryStore(), str(tmp_path / "keys")
    await initialise(store, keys)
    await history(store, keys, tmp_path, 1)
    path, untouched = written(tmp_path, 2), dict(store.objects)
    await publish(store, keys, "m", path)
    good = {name: data for name, data in store.objects.items() if name.startswith("updates/")}
    for at in range(1, 40):
        store.objects.clear()
        store.objects.update(untouched)
        with pytest.raises(Crashed):
            await publish(CrashingStore(store, at, after=True), keys, "m", path)
        record = next((name for name in store.objects if "/update-" in name), None)
        if record is not None:
            break
    assert record is not None
    for damage in (b"", b'{"objects":[["updates/x",1,"y"]],"advice":[],"skipped":""}', b"\xff"):
        held = dict(store.objects)
        store.objects[record] = damage
        again = await publish(store, keys, "m", path)
        assert (again.work.tasks, again.work.resumed) == (2, 1), "the first install is believed, the update is not"
        assert {name: store.objects[name] for name in good} == good
        store.objects.clear()
        store.objects.update(held)
    # An update that is gone although it is said to be there.
    for name in good:
        store.objects.pop(name, None)
    assert (await publish(store, keys, "m", path)).work.resumed == 1
    assert {name: store.objects[name] for name in good} == good


@pytest.mark.long
@pytest.mark.parametrize("engine", [[], ["--engine", "local", "--workers", "2"]], ids=["no engine", "local"])
async def test_a_publisher_that_is_killed_goes_on_where_it_was(tmp_path: Path, engine: list[str]) -> None:
    """kill -9 of the real command once one update is done; its workers go with it, and the next call does the rest."""
    store, keys = create_store(str(tmp_path / "store")), str(tmp_path / "keys")
    await initialise(store, keys)
    path = tmp_path / "model.npy"
    weights = np.random.default_rng(1).standard_normal(1_100_000).astype(np.float32)
    for _ in range(4):
        np.save(path, weights)
        await publish(store, keys, "m", path, last=0)
        weights[::7] *= np.float32(1.001)
    np.save(path, weights)
    command = [str(Path(sys.executable).with_name("modelsync")), "publish", str(tmp_path / "store"), "m", str(path)]
    command += ["--keys", keys, *engine]
    work = tmp_path / "store" / "work"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220  it is killed, not awaited
    try:
        while not (done := [*work.glob("*/update-*")]):
            assert process.poll() is None, "it ended before it could be killed"
            await asyncio.sleep(0.002)
        children = list(workers(process.pid))
    finally:
        process.kill()
        process.wait()
    assert bool(children) == bool(engine)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "workers outlived their publisher"
        await asyncio.sleep(0.02)
    names = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store" / "updates").rglob("*.v*")}
    done = [*work.glob("*/update-*"), *work.glob("*/install-*")]
    again = await publish(open_store(str(tmp_path / "store")), keys, "m", path)
    assert again.version == 5
    assert again.work.resumed == len(done) >= 1
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store" / "updates").rglob("*.v*")}
    assert {name: after[name] for name in names} == names
    assert not [*work.rglob("*/*")]
    assert (await verify(open_store(str(tmp_path / "store")))).problems == ()
