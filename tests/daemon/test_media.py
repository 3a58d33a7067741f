"""An import meets what sticks are like: stale, foreign, cut short, garbled, pulled out, full of traps; and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon import cli, oneshot
from modelsync_daemon.disk.database import Database, ModelRow, Quarantined
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.disk.states import State
from modelsync_daemon.reconcile import imports
from modelsync_daemon.reconcile.desired import DesiredState
from modelsync_daemon.transfer.media_origin import MediaOrigin
from modelsync_daemon.workers import medium_reader
from modelsync_protocol import media
from modelsync_protocol.errors import FormatError, LocalError, ModelsyncError, UnreachableError, UsageError
from modelsync_protocol.twin import Wish
from modelsync_server.media.export import export
from modelsync_server.media.selection import Wanted
from modelsync_server.store import open_store
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop
from tests.support.tools import needs

NAME = "anomaly"
OLD, NEW = (random.Random(seed).randbytes(90_000) for seed in (1, 2))
MIXED = OLD[:50_000] + NEW[:40_000]
LARGE = random.Random(3).randbytes(900_000)
"""Of several payloads' worth: what is left of it after a fault can be told from all of it."""


class World:
    """A store with two versions; media that hold them; a device."""

    def __init__(self, root: Path, shop: Shop) -> None:
        self.root, self.shop, self.data = root, shop, root / "data"

    async def stick(self, name: str = "stick", **wanted: Any) -> Path:
        """Export to `name`."""
        out = self.root / name
        since = wanted.pop("since", None)
        await export(open_store(str(self.shop.path)), out, Wanted(**wanted), since=since)
        return out

    def bring(self, path: Path, *front: str, trust: Path | None = None) -> tuple[int, Any]:
        """`modelsyncd import` in a process of its own; its exit code, and the model's document or what it said.

        `front`: a command to run it with; without one the process is forked off this one, which takes milliseconds.
        """
        options = ["import", str(path), "--data", str(self.data), "--json", "--trust", str(trust or self.shop.trust)]
        if front:
            command = [*front, str(Path(sys.executable).with_name("modelsyncd")), *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
            code, out, err = done.returncode, done.stdout, done.stderr
        else:
            code, out, err = forked(options, self.root / "said")
        if code < 0:
            return code, None
        if not out:
            assert err.count("\n") == 1 and "Traceback" not in err, err
            return code, err
        return code, json.loads(out)["models"][NAME]

    def content(self) -> bytes:
        """What serves."""
        return (self.data / "models" / NAME / "current" / "model.bin").read_bytes()


def forked(options: list[str], said: Path) -> tuple[int, str, str]:
    """Run the command in a forked child; exit code, stdout and stderr."""
    places = [said.with_suffix(suffix) for suffix in (".out", ".err")]
    pid = os.fork()
    if pid == 0:
        try:
            for number, place in enumerate(places, 1):
                os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - to the end
            cli.main(options)
        finally:
            os._exit(99)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    out, err = (place.read_text() for place in places)
    return code, out, err


@pytest.fixture
async def world(tmp_path: Path) -> World:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes(NAME, OLD)
    return World(tmp_path, shop)


@pytest.fixture
async def large(tmp_path: Path) -> World:
    """The same, with LARGE as its only version."""
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes(NAME, LARGE)
    return World(tmp_path, shop)


@pytest.mark.parametrize("out", ["folder", "file.tar"])
async def test_a_medium_brings_a_device_from_nothing_and_then_further(world: World, out: str) -> None:
    code, first = world.bring(await world.stick(out))
    assert (code, first["result"], first["state"]) == (0, "brought", "active") and world.content() == OLD
    await world.shop.publish_bytes(NAME, MIXED)
    small = await world.stick(f"small-{out}", since=str(world.root / out))
    assert world.bring(small)[1] == {**first, "version": 2} and world.content() == MIXED
    assert world.bring(small)[1]["result"] == "here"
    async with ScriptedOrigin(world.shop.path) as origin:
        show = lambda done, total: None  # noqa: E731 - nobody looks
        await asyncio.to_thread(oneshot.pull, NAME, origin.url, world.data, world.shop.trust, None, 1, show)
    with contextlib.closing(Database(world.data / "state.db")) as database:
        assert DesiredState(database).carried == {}, "who pulls another version by hand wants that one now"


async def test_what_came_by_medium_is_never_downloaded_again_and_what_was_downloaded_is_gone_on_with(
    large: World,
) -> None:
    """Half over the line, the rest by stick; and the other way round."""
    needs("strace")
    stick = await large.stick("one.tar")
    async with ScriptedOrigin(large.shop.path) as origin:

        def broken(exchange: Any, answer: Any, whole: bytes) -> Any:
            packs = [item for item in origin.exchanges if item.path.startswith("packs/")]
            if exchange in packs and len(packs) == 1:
                answer.stop_after = 300_000
            elif exchange in packs:
                answer.status, answer.body = 503, b""
            return answer

        origin.fault = broken
        device = Device(large.data, large.shop.trust)
        with pytest.raises(ModelsyncError):
            await device.pull(NAME, origin.url, stall_seconds=1)
        assert (large.data / "incoming" / NAME).is_dir()
        strace = ["strace", "-f", "-qq", "-o", str(large.root / "calls"), "-P", str(stick), "-e", "trace=pread64"]
        code, found = large.bring(stick, *strace)
        assert (code, found["result"]) == (0, "brought") and large.content() == LARGE
        read = sum(
            int(line.rpartition("= ")[2]) for line in (large.root / "calls").read_text().splitlines() if "= " in line
        )
        assert read < 750_000, "what had come over the line was read from the stick again"

        origin.fault = None
        before = origin.object_bytes()
        await device.pull(NAME, origin.url)
        assert origin.object_bytes() == before


async def test_a_stick_that_is_pulled_out_in_the_middle_is_gone_on_with(large: World) -> None:
    """A real EIO from the kernel's answer, at a payload's read."""
    needs("strace")
    stick = await large.stick("one.tar")
    # The 25 first reads are headers and metadata.
    gone = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(stick)]
    code, found = large.bring(stick, *gone, "-e", "inject=pread64:error=EIO:when=27+")
    assert (code, found["result"], found["state"]) == (4, "failed", "waiting"), found
    assert "insert the medium again" in found["text"]
    with contextlib.closing(Database(large.data / "state.db")) as database:
        assert DesiredState(database).carried == {}
    assert large.bring(stick)[0] == 0 and large.content() == LARGE


async def test_an_import_that_is_killed_goes_on(large: World) -> None:
    needs("strace")
    stick = await large.stick("one.tar")
    killed = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(stick), "-e", "inject=pread64:signal=KILL:when=27"]
    assert large.bring(stick, *killed)[0] == -signal.SIGKILL
    assert large.bring(stick)[0] == 0 and large.content() == LARGE
    assert list((large.data / "incoming").iterdir()) == []


async def test_a_stale_store_is_refused(world: World) -> None:
    stale = await world.stick("stale")
    await world.shop.publish_bytes(NAME, NEW)
    assert world.bring(await world.stick("fresh"))[0] == 0
    async with ScriptedOrigin(world.shop.path) as origin:  # a third version, so that the stale one is no newer
        assert (await Device(world.data, world.shop.trust).pull(NAME, origin.url)).version == 2
    # Its newest is older than what serves, so there is nothing to do; and an index that lies changes nothing.
    assert world.bring(stale)[1]["result"] == "here"
    medium = media.decode((stale / media.INDEX).read_bytes())
    (stale / media.INDEX).write_bytes(media.encode(replace(medium, models={NAME: (3,)})))
    code, found = world.bring(stale)
    assert (code, found["result"]) == (3, "failed") and "older metadata than this device has seen" in found["text"]
    assert world.content() == NEW


async def test_a_foreign_store_is_refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    theirs = await Shop.open(tmp_path_factory.mktemp("theirs"))
    await theirs.publish_bytes(NAME, OLD)
    await theirs.publish_bytes(NAME, NEW)
    assert world.bring(await world.stick())[0] == 0
    foreign = await World(theirs.root, theirs).stick()
    code, found = world.bring(foreign)
    assert (code, found["result"]) == (3, "failed") and "not signed by keys that this device trusts" in found["text"]
    assert world.content() == OLD and found["state"] == "waiting"


async def test_metadata_that_has_expired_is_refused(world: World) -> None:
    stick = await world.stick()
    (world.data / "trust").mkdir(parents=True)
    later = int(time.time()) + 400 * 86400
    (world.data / "trust" / "clock.json").write_text(
        json.dumps({"format": 1, "floor": later, "keys": [], "root_asked": None})
    )
    code, found = world.bring(stick)
    assert (code, found["result"]) == (3, "failed") and "expired" in found["text"]


@pytest.mark.parametrize("cut", [0, 100, 512, 5_000, 80_000, -1, -512])
async def test_a_file_that_is_cut_short_is_refused_with_a_sentence(world: World, cut: int) -> None:
    stick = await world.stick("one.tar")
    stick.write_bytes(stick.read_bytes()[:cut])
    code, text = world.bring(stick)
    assert code == 3 and "copy it again" in text


async def test_what_is_garbled_never_gets_in(world: World) -> None:
    """Bits flipped anywhere: refused with a sentence, or harmless; a whole stick then goes on from there."""
    stick = await world.stick("one.tar")
    whole = stick.read_bytes()
    rng = random.Random(17)
    for trial in range(12):
        changed = bytearray(whole)
        for _ in range(20):
            changed[rng.randrange(len(changed) if trial else 20_000)] ^= 1 << rng.randrange(8)
        stick.write_bytes(changed)
        try:
            MediaOrigin(stick).close()
        except FormatError:
            continue
    packs = whole.index(b"packs/") + 512  # contents of the pack: every header stays as it was
    changed = bytearray(whole)
    changed[packs + 50_000] ^= 1
    stick.write_bytes(changed)
    code, found = world.bring(stick)
    assert (code, found["result"]) == (3, "failed") and "damaged twice" in found["text"], found
    stick.write_bytes(whole)
    assert world.bring(stick)[0] == 0 and world.content() == OLD


async def test_a_garbled_update_is_mended_over_the_line_by_what_is_damaged_alone(large: World) -> None:
    mixed = LARGE[:800_000] + NEW
    assert large.bring(await large.stick())[0] == 0
    await large.shop.publish_bytes(NAME, mixed)
    small = await large.stick("small", bases=[1])
    [update] = (small / "updates").rglob("*.v1")
    data = bytearray(update.read_bytes())
    data[-20_000] ^= 0x40
    update.write_bytes(data)
    code, found = large.bring(small)
    assert code == 4 and "for another, or damaged" in found["text"]
    assert large.content() == LARGE
    async with ScriptedOrigin(large.shop.path) as origin:
        await Device(large.data, large.shop.trust).pull(NAME, origin.url)
        assert large.content() == mixed and origin.object_bytes() < 300_000


@pytest.mark.parametrize("trap", ["link", "folder link", "fifo", "folder", "huge"])
async def test_traps_on_a_stick_are_not_stepped_into(world: World, trap: str) -> None:
    """A stick's file system may hold anything: a link to a secret, a pipe that never answers."""
    stick = await world.stick()
    [pack] = (stick / "packs").iterdir()
    secret = world.root / "secret"
    secret.write_bytes(pack.read_bytes())
    if trap == "folder link":
        shutil.move(stick / "packs", world.root / "elsewhere")
        (stick / "packs").symlink_to(world.root / "elsewhere")
    else:
        pack.unlink()
        steps: dict[str, Callable[[], object]] = {
            "link": lambda: pack.symlink_to(secret),
            "fifo": lambda: os.mkfifo(pack),
            "folder": pack.mkdir,
            "huge": lambda: os.truncate(os.open(pack, os.O_CREAT | os.O_WRONLY), 1 << 40),
        }
        steps[trap]()
    code, found = world.bring(stick)
    assert code in (3, 4) and found["result"] == "failed" and not (world.data / "models" / NAME / "current").exists()


@pytest.mark.parametrize("trap", ["link", "fifo", "missing", "huge", "empty"])
async def test_traps_in_place_of_the_index(world: World, trap: str) -> None:
    stick = await world.stick()
    index = stick / media.INDEX
    shutil.move(index, world.root / "index")
    steps: dict[str, Callable[[], object]] = {
        "link": lambda: index.symlink_to(world.root / "index"),
        "fifo": lambda: os.mkfifo(index),
        "missing": lambda: None,
        "huge": lambda: os.truncate(os.open(index, os.O_CREAT | os.O_WRONLY), 1 << 40),
        "empty": index.touch,
    }
    steps[trap]()
    with pytest.raises(FormatError):
        MediaOrigin(stick)
    code, text = world.bring(stick)
    assert code == 3 and isinstance(text, str)


async def test_what_is_not_there_or_is_no_medium_is_said(world: World) -> None:
    assert world.bring(world.root / "nothing") == (2, ANY("insert the medium"))
    assert world.bring(Path("/dev/null")) == (2, ANY("neither a folder nor a file"))
    assert world.bring(world.shop.path) == (3, ANY("holds no finished export"))
    stick = await world.stick()
    assert world.bring(stick, trust=world.root / "no.json") == (2, ANY("--trust"))
    assert world.bring(stick, trust=stick / media.INDEX)[1]["exit_code"] == 3


class ANY:
    """Equal to a text that holds this."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self._part in other

    def __hash__(self) -> int:
        return hash(self._part)


async def test_the_index_is_read_by_a_process_that_has_nothing_else(world: World, monkeypatch: Any) -> None:
    """What it does where it may not: open a file of the device's."""
    stick = await world.stick()
    assert medium_reader.read(stick).models == {NAME: (1,)}
    secret = world.root / "secret"
    secret.write_text("{}")

    def greedy(path: Path) -> Any:
        return MediaOrigin(stick) if path == stick and not secret.read_text() else None

    monkeypatch.setattr(medium_reader, "MediaOrigin", greedy)
    with pytest.raises(LocalError):
        medium_reader.read(stick)


async def test_only_the_objects_that_a_medium_has_are_answered_for(world: World) -> None:
    origin = MediaOrigin(await world.stick())
    for path in ("bundles/anomaly", "../secret", "packs/" + "0" * 64, "metadata/9.root.json"):
        assert await origin.size(path) is None
        with pytest.raises(UnreachableError):
            await origin.get(path, 1000)
    with pytest.raises(ModelsyncError, match="longer than the 3 bytes"):
        await origin.get("metadata/1.root.json", 3)
    [pack] = (world.root / "stick" / "packs").iterdir()
    size = pack.stat().st_size
    body = origin.open(f"packs/{pack.name}", 10, size, whole=True)
    head = await body.read(5)
    body.unread(head[3:])
    await body.skip_to(20)
    assert await body.read(size - 20) == pack.read_bytes()[20:]
    with pytest.raises(FormatError):
        await body.read(1)
    body.close()
    with pytest.raises(FormatError):
        origin.open(f"packs/{pack.name}", 0, size + 1, whole=True)
    origin.close()


HERE = Reference(4, "ab" * 32)
REFUSED = {"cd" * 32: Quarantined(NAME, "cd" * 32, 5, "its probe failed.", "")}


@pytest.mark.parametrize(
    ("versions", "wish", "more", "result", "version"),
    [
        ((5, 4), Wish(), {}, imports.COMING, 5),
        ((5, 4), Wish(4), {}, imports.HERE, 4),
        ((5, 3), Wish(3), {}, imports.COMING, 3),
        ((5, 3), Wish(6), {}, imports.COMING, 5),
        ((5, 3), Wish(6), {"connected": True}, imports.LEFT, None),
        ((5, 3), Wish(5), {"connected": True}, imports.COMING, 5),
        ((3,), Wish(), {}, imports.HERE, 4),
        ((5,), Wish(absent=True), {}, imports.LEFT, None),
        ((5,), Wish(), {"held": True}, imports.LEFT, 5),
        ((5,), Wish(), {"quarantined": REFUSED}, imports.FAILED, 5),
        ((5,), Wish(retry="again"), {"quarantined": REFUSED}, imports.COMING, 5),
        ((6,), Wish(), {"quarantined": REFUSED}, imports.COMING, 6),
        ((5,), Wish(), {"row": ModelRow(NAME, hold="operator")}, imports.LEFT, 5),
        ((5,), Wish(), {"row": ModelRow(NAME, State.PROBING, target_version=5)}, imports.BROUGHT, 5),
        ((6,), Wish(), {"row": ModelRow(NAME, State.PROBING, target_version=5)}, imports.COMING, 6),
    ],
)
def test_what_becomes_of_a_model(
    versions: tuple[int, ...], wish: Wish, more: dict[str, Any], result: str, version: int | None
) -> None:
    options = {"row": ModelRow(NAME), "quarantined": {}, **more}
    found = imports.choose(versions, wish, HERE, **options)
    assert (found.result, found.version) == (result, version)


def test_what_was_carried_counts_until_the_hub_has_an_opinion(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.create()
    database = Database(data.state_db)
    desired = DesiredState(database)
    desired.accept({"$version": 1, "modelsync": {"models": {"a": {"version": 1}, "b": {"version": 1}}}})
    desired.carry("a", 2, "/stick")
    desired.carry("c", 7, None)
    desired = DesiredState(database)
    assert (desired.of("a").version, desired.of("b").version, desired.of("c").version) == (2, 1, 7)
    assert desired.medium("a", 2) == "/stick" and desired.medium("a", 1) is None and desired.medium("c", 7) is None
    desired.accept({"$version": 2, "modelsync": {"models": {"a": {"version": 2}}}})
    assert desired.medium("a", 2) == "/stick", "the hub wants what is just coming: it goes on coming from there"
    desired.accept({"$version": 3, "modelsync": {"models": {"a": {"version": 1}}}})
    assert desired.of("a").version == 1 and desired.of("c").version == 7
    desired.accept({"$version": 4, "modelsync": {"models": {"c": {"state": "absent"}}}})
    assert desired.of("c") == Wish(absent=True) and DesiredState(database).carried == {}
    database.remember("carried", '{"a": {"version": "x"}}')
    assert DesiredState(database).carried == {}, "a state.db of another hand must not end the daemon"
    database.close()


def test_a_path_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        MediaOrigin(tmp_path / "missing")
