"""Exports: what goes onto a medium for whom, newest first within a size; and what a stick survives being written to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.transfer.media_origin import MediaOrigin
from modelsync_protocol import carried_report, media, names
from modelsync_protocol.carried_report import Report
from modelsync_protocol.errors import LocalError, RefusedError, UsageError
from modelsync_server.media import held, writers
from modelsync_server.media.export import Exported, export, parse_size
from modelsync_server.media.selection import Wanted
from modelsync_server.store import MemoryStore, create_store, open_store
from modelsync_server.trust import read_catalogue
from modelsync_server.trust.initialise import initialise
from tests.support.modelsync_command import runner
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop
from tests.support.tools import needs

DATA = [random.Random(seed).randbytes(60_000) for seed in range(4)]
VERSIONS = [DATA[0], DATA[0][:50_000] + DATA[1][:10_000], DATA[2]]
"""Of model `a`: the second is near the first, the third near nothing."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A store with three versions of `a` and one of `b`, to which nobody writes."""

    async def fill() -> Shop:
        made = await Shop.open(tmp_path_factory.mktemp("shop"))
        for data in VERSIONS:
            await made.publish_bytes("a", data)
        await made.publish_bytes("b", DATA[3])
        return made

    return asyncio.run(fill())


async def write(shop: Shop, out: Path, size: int | None = None, since: str | None = None, **wanted: Any) -> Exported:
    return await export(open_store(str(shop.path)), out, Wanted(**wanted), size=size, since=since)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kinds(folder: Path) -> set[str]:
    return {path.split("/")[0] for path in contents(folder)}


async def digests(shop: Shop, name: str) -> dict[int, str]:
    return dict((await read_catalogue(open_store(str(shop.path)))).models[name].versions)


async def test_folder_and_file_have_the_same_objects_and_the_same_bytes_each_time(shop: Shop, tmp_path: Path) -> None:
    done = await write(shop, tmp_path / "stick")
    assert done.models == {"a": (3,), "b": (1,)}
    await write(shop, tmp_path / "one.tar")
    await write(shop, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        packed = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    assert packed == contents(tmp_path / "stick")
    assert kinds(tmp_path / "stick") == {"metadata", "manifests", "packs", media.INDEX}
    for path, data in packed.items():
        assert path == media.INDEX or (shop.path / path).read_bytes() == data
    assert not [path for path in packed if path.startswith("bundles/")]


async def test_for_what_devices_hold_only_what_they_lack_is_there(shop: Shop, tmp_path: Path) -> None:
    await write(shop, tmp_path / "near", models=[("a", 2)], bases=[1])
    found = await digests(shop, "a")
    near = contents(tmp_path / "near")
    assert [path for path in near if path.split("/")[0] in ("packs", "manifests")] == []
    assert names.update_object(found[2], found[1]) in near
    await write(shop, tmp_path / "empty", models=[("a", 2)], bases=[0, 1])
    assert kinds(tmp_path / "empty") >= {"packs", "updates"}, "one device holds nothing, another the first"
    held_by = [{"a": found[1]}, {"a": found[2]}]
    await write(shop, tmp_path / "two", models=[("a", 2)], held=held_by)
    assert contents(tmp_path / "two") == near, "who has it already needs nothing"
    await write(shop, tmp_path / "strange", models=[("a", 2)], held=[{"a": "ab" * 32}])
    assert kinds(tmp_path / "strange") >= {"packs", "manifests"}, "what the store does not know takes packs"
    with pytest.raises(UsageError, match="hold all of this already"):
        await write(shop, tmp_path / "none", models=[("a", 2)], held=[{"a": found[2]}])


async def test_since_an_earlier_export_is_small_and_brings_its_devices_further(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("a", VERSIONS[0])
    await shop.publish_bytes("b", DATA[3])
    first = await write(shop, tmp_path / "first.tar")
    await shop.publish_bytes("a", VERSIONS[1])
    second = await write(shop, tmp_path / "second.tar", since=str(tmp_path / "first.tar"))
    assert second.models == {"a": (2,)} and second.total < first.total / 4
    origin = MediaOrigin(tmp_path / "second.tar")
    found = await digests(shop, "a")
    assert await origin.size(names.update_object(found[2], found[1])) is not None
    origin.close()
    with pytest.raises(UsageError, match="hold all of this already"):
        await write(shop, tmp_path / "third.tar", since="2099-01-01")
    everything = await write(shop, tmp_path / "third.tar", since="2001-01-01")
    assert everything.models == {"a": (2,), "b": (1,)}, "nobody held anything then"
    for wrong in ("yesterday", str(shop.trust)):
        with pytest.raises(UsageError):
            await write(shop, tmp_path / "x.tar", since=wrong)
    other = await Shop.open(tmp_path / "other")
    await other.publish_bytes("a", DATA[0])
    with pytest.raises(UsageError, match="another store"):
        await write(other, tmp_path / "x.tar", since=str(tmp_path / "first.tar"))


async def test_within_a_size_the_newest_goes_first(shop: Shop, tmp_path: Path) -> None:
    every = await write(shop, tmp_path / "all.tar", versions=3)
    assert every.models == {"a": (3, 2, 1), "b": (1,)}
    whole = (tmp_path / "all.tar").stat().st_size
    seen = []
    for size in range(whole, 0, -30_000):
        out = tmp_path / "fits.tar"
        try:
            done = await write(shop, out, size, versions=3)
        except UsageError as error:
            assert "are allowed" in str(error)
            break
        assert out.stat().st_size <= size
        seen.append(tuple(done.models["a"]))
        assert (done.left == ()) == (done.models["a"] == (3, 2, 1))
    assert seen[0] == (3, 2, 1) and seen[-1] == (3,) and seen == sorted(seen, reverse=True)


async def test_a_folder_stays_within_its_size_however_large_its_blocks_are(shop: Shop, tmp_path: Path) -> None:
    block = writers.block_bytes(tmp_path)
    for size in (500_000, 400_000):
        out = tmp_path / str(size)
        await write(shop, out, size, versions=3)
        assert sum(-(-len(data) // block) * block for data in contents(out).values()) <= size


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"models": [("c", None)]}, "no model 'c'"),
        ({"models": [("a", 9)]}, "no version 9"),
        ({"models": [("a", None)], "size": 1000}, "1,000 are allowed"),
    ],
)
async def test_what_can_not_be_exported_is_said(
    shop: Shop, tmp_path: Path, wanted: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        await write(shop, tmp_path / "x", **wanted)
    assert not (tmp_path / "x").exists()


async def test_a_withdrawn_version_is_not_carried(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("a", DATA[0])
    await shop.publish_bytes("a", DATA[1])
    await (await shop.repository()).withdraw("a", 2)
    assert (await write(shop, tmp_path / "stick")).models == {"a": (1,)}
    with pytest.raises(RefusedError, match="withdrawn"):
        await write(shop, tmp_path / "other", models=[("a", 2)])


async def test_an_old_version_comes_with_the_archive_that_signs_it(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    for number in range(12):
        await shop.publish_bytes("a", DATA[0][: 1000 + number])
    await write(shop, tmp_path / "stick", models=[("a", 1)])
    assert any("archive" in path for path in contents(tmp_path / "stick"))
    device = Device(tmp_path / "data", shop.trust)
    await device.pull("a", "", version=1, media=tmp_path / "stick")
    assert device.files("a") == {"model.bin": DATA[0][:1000]}


async def test_the_folder_is_a_store_to_any_origin(shop: Shop, tmp_path: Path) -> None:
    """The same layout: whoever has a web server down there needs nothing else."""
    await write(shop, tmp_path / "stick")
    async with ScriptedOrigin(tmp_path / "stick") as origin:
        device = Device(tmp_path / "data", shop.trust)
        assert (await device.pull("a", origin.url)).version == 3


async def test_a_second_export_keeps_what_lies_there_whole_and_takes_away_what_is_old(tmp_path: Path) -> None:
    shop, out = await Shop.open(tmp_path), tmp_path / "stick"
    await shop.publish_bytes("a", DATA[0])
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"a person's own")
    first = await write(shop, out)
    assert first.bytes == first.total and (await write(shop, out)).bytes == 0
    [pack] = (out / "packs").iterdir()
    garbled = bytearray(pack.read_bytes())
    garbled[1000] ^= 1
    pack.write_bytes(garbled)
    [old] = (out / "manifests").iterdir()
    old.write_bytes(old.read_bytes()[:-1] + b"?")
    assert (await write(shop, out)).bytes == pack.stat().st_size + old.stat().st_size, "the stick had lost some bits"
    await shop.publish_bytes("a", DATA[1])
    await write(shop, out)
    assert not pack.exists() and not old.exists() and (out / "holiday.jpg").exists()
    assert (await Device(tmp_path / "data", shop.trust).pull("a", "", media=out)).version == 2


async def test_a_folder_that_is_something_else_is_left_alone(shop: Shop, tmp_path: Path) -> None:
    before = contents(shop.path)
    with pytest.raises(UsageError, match="no export"):
        await write(shop, shop.path)
    assert contents(shop.path) == before
    theirs = await Shop.open(tmp_path / "theirs")
    await theirs.publish_bytes("a", DATA[0])
    await write(theirs, tmp_path / "stick")
    before = contents(tmp_path / "stick")
    with pytest.raises(UsageError, match="another store"):
        await write(shop, tmp_path / "stick")
    assert contents(tmp_path / "stick") == before
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="is a file"):
        await write(shop, tmp_path / "file")


COMMAND = str(Path(sys.executable).with_name("modelsync"))


@pytest.mark.parametrize(("when", "out"), [(2, "stick"), (5, "stick"), (8, "stick"), (2, "one.tar")])
def test_a_stick_that_is_pulled_out_while_it_is_written_to(shop: Shop, tmp_path: Path, out: str, when: int) -> None:
    """Killed, then failing with EIO, at some fsync: the old export stays whole, and the next one goes on."""
    needs("strace")
    place = tmp_path / out
    asyncio.run(write(shop, place, models=[("a", 1)]))
    for fault in (f"signal=KILL:when={when}", f"error=EIO:when={when}+"):
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", f"inject=fsync:{fault}"]
        done = subprocess.run(
            [*strace, COMMAND, "export", str(shop.path), str(place)], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == -signal.SIGKILL or (done.returncode == 5 and "cannot use" in done.stderr)
        origin = MediaOrigin(place)  # whole: the old one, or the new one
        assert origin.medium.models in ({"a": (1,)}, {"a": (3,), "b": (1,)})
        version = origin.medium.models["a"][0]
        origin.close()
        device = Device(tmp_path / f"data-{fault[:3]}", shop.trust)
        assert asyncio.run(device.pull("a", "", media=place, version=version)).version == version
    asyncio.run(write(shop, place))
    fresh = tmp_path / f"fresh-{out}"
    asyncio.run(write(shop, fresh))
    assert contents(place) == contents(fresh) if place.is_dir() else place.read_bytes() == fresh.read_bytes()


async def test_a_full_stick_is_said_before_anything_is_written(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = tmp_path / "stick"
    free.mkdir()
    usage = os.statvfs(tmp_path)
    assert usage.f_frsize
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    for out in (free, tmp_path / "one.tar"):
        with pytest.raises(LocalError, match="1,000 bytes free and the export needs"):
            await write(shop, out)
    assert list(free.iterdir()) == [] and not (tmp_path / "one.tar").exists()


@pytest.mark.parametrize("out", ["stick", "one.tar"])
def test_a_stick_that_fills_up_on_the_way_keeps_the_old_export(shop: Shop, tmp_path: Path, out: str) -> None:
    """Another program writes to it, too: a tmpfs of 400 KiB."""
    if os.geteuid() != 0:
        pytest.skip("LOUD: file systems can't be mounted here (be root)")
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(mount)], check=True)
    try:
        place = mount / out
        asyncio.run(write(shop, place, models=[("a", 1)]))
        with contextlib.suppress(OSError):
            (mount / "other").write_bytes(bytes(220_000))
        with pytest.raises(LocalError, match="free"):
            asyncio.run(write(shop, place))
        origin = MediaOrigin(place)
        assert origin.medium.models == {"a": (1,)}
        origin.close()
        (mount / "other").unlink()
        asyncio.run(write(shop, place))
        MediaOrigin(place).close()
        assert not list(mount.glob(".tmp-*"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)


async def test_what_fat_can_not_hold_in_one_file_is_refused_and_fits_into_a_folder(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_FAT_MOST", 100_000)
    monkeypatch.setattr(writers, "filesystem", lambda folder: "vfat")
    with pytest.raises(UsageError, match=r"name a folder instead .* or give --size 4G"):
        await write(shop, tmp_path / "one.tar")
    await write(shop, tmp_path / "stick")
    sizes = [len(data) for data in contents(tmp_path / "stick").values()]
    assert max(sizes) < writers._FAT_MOST < sum(sizes)


def test_the_file_system_is_found_out() -> None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - proc proc" in line and line.split()[4] == "/proc":
            assert writers.filesystem(Path("/proc/self")) == "proc"
    assert writers.filesystem(Path("/")) != ""


def test_a_file_system_that_says_too_late_that_a_file_is_too_large(shop: Shop, tmp_path: Path) -> None:
    """FAT behind FUSE does not say its name: EFBIG, as a limit on this process's files gives it."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [COMMAND, "export", str(shop.path), str(tmp_path / "one.tar")],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        timeout=240,
    )
    assert done.returncode == 2 and "FAT takes 4 GiB" in done.stderr and list(tmp_path.iterdir()) == []


async def test_a_blob_store_is_exported_like_a_folder(tmp_path: Path) -> None:
    """Nothing is asked of a store but its port."""
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("a", DATA[0])
    memory = MemoryStore()
    for path in shop.path.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            await memory.create(str(path.relative_to(shop.path)), path.read_bytes())
    await export(memory, tmp_path / "one.tar", Wanted())
    await write(shop, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


async def test_what_no_device_would_believe_any_more_is_not_written(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelsync_server.media.export.now", lambda: datetime.now(UTC) + timedelta(days=400))
    with pytest.raises(RefusedError, match="run `modelsync refresh`"):
        await write(shop, tmp_path / "stick")
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_store_has_nothing_to_carry(tmp_path: Path) -> None:
    await initialise(create_store(str(tmp_path / "store")), str(tmp_path / "keys"))
    with pytest.raises(UsageError, match="nothing to export"):
        await export(open_store(str(tmp_path / "store")), tmp_path / "stick", Wanted())


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("3.5K", 3584), ("2M", 2 << 20), ("4G", 4 << 30), ("1 TiB", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "4X", "G", "1e9"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--size takes"):
        parse_size(text)


DIGEST = "ab" * 32
SECTION = {"models": {"a": {"version": 1, "digest": DIGEST}, "b": {"version": 1}}}
TWIN = {"deviceId": "pi", "properties": {"reported": {"modelsync": SECTION}, "desired": {}}}
REPORT = carried_report.sign(Report("h", "d", None, 5, "2026-11-27T09:00:00Z", {"modelsync": SECTION}), "YQ==")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (json.dumps(TWIN).encode(), [{"a": DIGEST}]),
        (json.dumps(SECTION).encode(), [{"a": DIGEST}]),
        (json.dumps({"deviceId": "pi", "reported": {"modelsync": SECTION}}).encode(), [{"a": DIGEST}]),
        (json.dumps([TWIN, {"deviceId": "new", "properties": {}}]).encode(), [{"a": DIGEST}, {}]),
        (json.dumps(TWIN).encode() + b"\n\n" + json.dumps(SECTION).encode() + b"\n", [{"a": DIGEST}, {"a": DIGEST}]),
        (REPORT + REPORT, [{"a": DIGEST}, {"a": DIGEST}]),
        (json.dumps(TWIN, indent=2).encode(), [{"a": DIGEST}]),
    ],
)
def test_devices_are_read_from_whatever_says_what_they_hold(data: bytes, found: list[dict[str, str]]) -> None:
    assert held.parse(data) == found


@pytest.mark.parametrize("data", [b"", b"[]", b"pi\n", b"5", b'{"x":1}', b'[{"models":5}]', b"{\n{", b"\xff\xfe"])
def test_what_says_nothing_of_devices_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="the file of devices"):
        held.parse(data)


def test_the_command(shop: Shop, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = runner(monkeypatch, capsys)
    found = run("export", shop.path, tmp_path / "stick", "--models", "a:2, b", "--bases", "1,0", "--json").json
    assert found["models"] == {"a": [2], "b": [1]} and found["written"] == found["bytes"] and not found["left_out"]
    (tmp_path / "devices.json").write_text(json.dumps(SECTION))
    said = run("export", shop.path, tmp_path / "one.tar", "--devices", tmp_path / "devices.json", "--size", "10M")
    assert said.code == 0 and said.out.startswith("a 3\nb 1\n") and "devices believe it until" in said.out
    for wrong in (
        ("--models", "a:x"),
        ("--models", "A"),
        ("--bases", "one"),
        ("--devices", tmp_path / "missing"),
        ("--size", "huge"),
        ("--since", "never"),
    ):
        failed = run("export", shop.path, tmp_path / "x", *wrong)
        assert failed.code == 2 and failed.err.count("\n") == 1 and not (tmp_path / "x").exists(), failed
