"""Damage, hostile origins, kills and cuts: the version ends bit-exact or is refused, and little is fetched twice."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from modelsync_daemon.build.seeds import load_seed
from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError
from tests.support.pulling import Device, finished, spawn_pull
from tests.support.relay import Relay
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024
PAYLOAD_AND_FLIGHT = 512 * KIB


def noise(seed: int, size: int) -> bytes:
    """Bytes that don't compress."""
    return random.Random(seed).randbytes(size)


def tuned(data: bytes, seed: int) -> bytes:
    """`data` with one byte in 64 changed: an update of a good part of its size."""
    changed = bytearray(data)
    generator = random.Random(seed)
    for place in range(0, len(changed), 64):
        changed[place + generator.randrange(64) if place + 64 <= len(changed) else place] ^= 1 + generator.randrange(
            255
        )
    return bytes(changed)


async def stocked(tmp_path: Path, old: bytes, new: bytes) -> tuple[Shop, Device]:
    """A store with `old` as version 1 and `new` as version 2, and a device that holds version 1."""
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", old)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
    await shop.publish_bytes("m", new)
    return shop, device


def flip(path: Path, place: int) -> None:
    """Damage one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(data)


async def test_damaged_update_is_repaired_from_packs(tmp_path: Path) -> None:
    old = noise(1, 512 * KIB)
    new = tuned(old, 2)
    shop, device = await stocked(tmp_path, old, new)
    update = shop.objects("updates")[0]
    flip(update, update.stat().st_size // 2)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
    assert device.files("m") == {"model.bin": new}
    assert "assembling" in device.listener.states


@pytest.mark.parametrize("place", [0, 5, 20])
async def test_update_with_a_damaged_head_falls_back_to_chunks(place: int, tmp_path: Path) -> None:
    old = noise(1, 200 * KIB)
    new = old[: 100 * KIB] + b"changed" + old[100 * KIB :]
    shop, device = await stocked(tmp_path, old, new)
    flip(shop.objects("updates")[0], place)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
    assert device.files("m") == {"model.bin": new}


async def test_missing_update_falls_back_to_chunks(tmp_path: Path) -> None:
    old = noise(1, 300 * KIB)
    new = old[: 100 * KIB] + b"changed" + old[100 * KIB :]
    shop, device = await stocked(tmp_path, old, new)
    shutil.rmtree(shop.path / "updates")
    async with ScriptedOrigin(shop.path) as origin:
        prepared = await device.pull("m", origin.url)
    assert prepared.plan.kind == "chunks"
    assert device.files("m") == {"model.bin": new}


async def test_damaged_pack_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    old = noise(1, 300 * KIB)
    shop, device = await stocked(tmp_path, old, noise(2, 300 * KIB))
    for path in shop.objects("packs"):
        flip(path, path.stat().st_size // 2)
    shutil.rmtree(shop.path / "updates", ignore_errors=True)
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(RefusedError, match="damaged"):
            await device.pull("m", origin.url)
    assert device.files("m") == {"model.bin": old}
    assert not [path for path in device.leftovers() if not path.endswith("/m")]


@pytest.mark.parametrize("kind", ["manifests", "updates", "packs"])
async def test_truncated_object_never_becomes_a_version(kind: str, tmp_path: Path) -> None:
    old, new = noise(1, 300 * KIB), noise(2, 300 * KIB)
    shop, device = await stocked(tmp_path, old, new)
    if kind != "updates":
        shutil.rmtree(shop.path / "updates", ignore_errors=True)
    for path in shop.objects(kind):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    async with ScriptedOrigin(shop.path) as origin:
        try:
            await device.pull("m", origin.url, stall_seconds=1.0)
        except (RefusedError, UnreachableError):
            assert device.files("m") == {"model.bin": old}
        else:
            assert device.files("m") == {"model.bin": new}


async def test_corrupt_base_costs_only_the_chunks_that_lean_on_it(tmp_path: Path) -> None:
    old = noise(1, 2048 * KIB)
    new = old[: 1000 * KIB] + noise(3, 20 * KIB) + old[1020 * KIB :]
    shop, device = await stocked(tmp_path, old, new)
    flip(next((device.data.root / "models" / "m").glob("1-*/model.bin")), 100)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
        fetched = origin.object_bytes()
    assert device.files("m") == {"model.bin": new}
    assert fetched < 400 * KIB


async def test_file_that_is_linked_from_a_corrupt_base_is_repaired_without_touching_the_base(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.bin").write_bytes(noise(1, 100 * KIB))
    (tree / "b.bin").write_bytes(noise(2, 100 * KIB))
    await shop.publish("m", tree)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        first = await device.pull("m", origin.url)
        (tree / "b.bin").write_bytes(noise(3, 100 * KIB))
        await shop.publish("m", tree)
        flip(first.path / "a.bin", 5)
        damaged = (first.path / "a.bin").read_bytes()
        second = await device.pull("m", origin.url)
    assert (second.path / "a.bin").read_bytes() == noise(1, 100 * KIB)
    assert (first.path / "a.bin").read_bytes() == damaged
    with device.data.lock():
        assert load_seed(device.data.installed("m")[0]) is not None


def _ignores_ranges(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
    return Answer(200, whole, {"ETag": answer.headers["ETag"]}) if answer.status == 206 else answer


def _half_then_reset(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
    if len(answer.body) > 50 * KIB:
        answer.stop_after = len(answer.body) // 2
    return answer


class _EverySecondFails:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
        self.count += 1
        return Answer(500, b"no", {}) if self.count % 2 else answer


@pytest.mark.parametrize("fault", [_ignores_ranges, _half_then_reset, _EverySecondFails()], ids=lambda f: str(f)[:20])
async def test_troublesome_origin_delays_but_does_not_stop(fault: object, tmp_path: Path) -> None:
    old = noise(1, 300 * KIB)
    new = noise(2, 100 * KIB) + old[100 * KIB :]
    shop, device = await stocked(tmp_path, old, new)
    async with ScriptedOrigin(shop.path) as origin:
        origin.fault = fault  # type: ignore[assignment]
        await device.pull("m", origin.url)
        assert device.files("m") == {"model.bin": new}
        shutil.rmtree(shop.path / "updates")
        fresh = Device(tmp_path / "fresh", shop.trust)
        await fresh.pull("m", origin.url)
    assert fresh.files("m") == {"model.bin": new}


def _gzip(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
    answer.headers["Content-Encoding"] = "gzip"
    return answer


def _forbidden(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
    return Answer(403, b"", {})


def _wrong_range(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
    if answer.status == 206:
        answer.headers["Content-Range"] = f"bytes 1-{len(answer.body)}/{len(whole)}"
    return answer


def _endless(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
    if exchange.path.startswith(("bundles/", "manifests/")):
        return Answer(200, b"\0" * (30 * 1024 * KIB), {"Transfer-Encoding": "chunked"})
    return answer


@pytest.mark.parametrize("fault", [_gzip, _forbidden, _endless], ids=lambda f: f.__name__.strip("_"))
async def test_misbehaving_origin_is_refused_and_the_old_version_stays(fault: object, tmp_path: Path) -> None:
    old, new = noise(1, 300 * KIB), noise(2, 300 * KIB)
    shop, device = await stocked(tmp_path, old, new)
    shutil.rmtree(shop.path / "updates", ignore_errors=True)
    async with ScriptedOrigin(shop.path) as origin:
        origin.fault = fault  # type: ignore[assignment]
        with pytest.raises((RefusedError, UnreachableError)) as caught:
            await device.pull("m", origin.url, stall_seconds=0.5)
    assert str(caught.value).endswith(".")
    assert device.files("m") == {"model.bin": old}


async def test_answer_with_another_range_than_asked_for_is_refused(tmp_path: Path) -> None:
    old = noise(1, 300 * KIB)
    shop, _ = await stocked(tmp_path, old, noise(2, 100 * KIB) + old[100 * KIB :])
    fresh = Device(tmp_path / "fresh", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        origin.fault = _wrong_range
        with pytest.raises(UnreachableError, match="another range"):
            await fresh.pull("m", origin.url, stall_seconds=0.5)
        assert any(exchange.range for exchange in origin.exchanges)
        origin.fault = None
        await fresh.pull("m", origin.url)
    assert fresh.files("m") == {"model.bin": noise(2, 100 * KIB) + old[100 * KIB :]}


async def test_update_that_is_replaced_in_mid_download_is_begun_anew(tmp_path: Path) -> None:
    old = noise(1, 512 * KIB)
    new = tuned(old, 2)
    shop, device = await stocked(tmp_path, old, new)

    class Replaced:
        tags = 0

        def __call__(self, exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
            if exchange.path.startswith("updates/"):
                self.tags += 1
                if self.tags == 1:
                    return Answer(200, whole, {"ETag": '"one"'}, stop_after=len(whole) // 2)
                return Answer(200, whole, {"ETag": '"two"'})
            return answer

    async with ScriptedOrigin(shop.path) as origin:
        origin.fault = Replaced()
        await device.pull("m", origin.url)
    assert device.files("m") == {"model.bin": new}


async def test_full_disk_says_so_and_the_update_goes_on_later(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if not await asyncio.to_thread(_mount, small):
        pytest.skip("LOUD: no small file system can be mounted here, so a full disk is not tested (be root)")
    try:
        shop = await Shop.open(tmp_path)
        data = noise(1, 3000 * KIB)
        await shop.publish_bytes("m", data)
        device = Device(small / "device", shop.trust)
        filler = small / "filler"
        filler.write_bytes(bytes(8 * 1024 * KIB))
        async with ScriptedOrigin(shop.path) as origin:
            with pytest.raises(LocalError, match="free"):
                await device.pull("m", origin.url)
            filler.unlink()
            await device.pull("m", origin.url)
        assert device.files("m") == {"model.bin": data}
    finally:
        await asyncio.to_thread(_unmount, small)


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


async def _interrupted(tmp_path: Path, size: int, rate: int, kills: int, cuts: int) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(7, size)
    await shop.publish_bytes("m", data)
    plan = random.Random(5)
    async with ScriptedOrigin(shop.path) as origin, Relay("127.0.0.1", origin.port) as relay:
        relay.rate = rate
        url, target = f"http://127.0.0.1:{relay.port}", tmp_path / "device"
        events = ["kill"] * kills + ["cut"] * cuts
        plan.shuffle(events)
        process = await spawn_pull("m", url, target, shop.trust)
        share = size // (len(events) + 1)
        for event in events:
            goal = relay.counts().down + share * plan.uniform(0.4, 0.9)
            while relay.counts().down < goal and process.returncode is None:  # noqa: ASYNC110 (a relay has no event)
                await asyncio.sleep(0.01)
            assert process.returncode is None, "the pull ended before all interruptions"
            if event == "kill":
                process.send_signal(signal.SIGKILL)
                await process.communicate()
                process = await spawn_pull("m", url, target, shop.trust)
            else:
                relay.cut()
        result = await finished(process)
        spent = relay.counts().down
    assert Path(result["path"], "model.bin").read_bytes() == data
    assert spent <= result["plan"]["bytes"] + PAYLOAD_AND_FLIGHT * len(events)
    # Much less in the mean: what is at stake is one payload at most.
    assert spent <= result["plan"]["bytes"] + 400 * KIB * len(events)


async def test_kills_and_cuts_cost_at_most_a_payload_each(tmp_path: Path) -> None:
    await _interrupted(tmp_path, 3000 * KIB, 2_000_000, kills=3, cuts=2)


@pytest.mark.long
async def test_20_kills_and_10_cuts_over_a_line_of_1_megabyte_a_second(tmp_path: Path) -> None:
    await _interrupted(tmp_path, 24 * 1024 * KIB, 1_000_000, kills=20, cuts=10)
