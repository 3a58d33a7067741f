"""A bit flip anywhere in an update ends in a clean refusal and a fallback: what gets installed is bit-exact."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol import codecs, index, manifest, names, update
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Frame
from tests.protocol.golden import check
from tests.server.tensors.worlds import safetensors
from tests.support.pulling import Device
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

PULLS = 20
"""Flips that go through the whole daemon, of each pair."""

DECODINGS = 400
"""About so many bits of the payloads are flipped for the decoders alone."""

MODEL = "m"


def a_model(version: int) -> bytes:
    """Weights after one more step of training."""
    chance = np.random.default_rng(5)
    weights = chance.normal(0, 0.1, (96, 64)).astype(np.float32)
    for _ in range(version - 1):
        weights += chance.normal(0, 1e-5, weights.shape).astype(np.float32)
    return safetensors({"layer.weight": ("f32", weights)})


def a_text(version: int) -> bytes:
    """Lines, of which every tenth says which version it is."""
    lines = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(400)]
    return "\n".join(f"{line} {n * version if n % 10 == 0 else n}" for n, line in enumerate(lines)).encode()


PAIRS = {"model.safetensors": a_model, "labels.txt": a_text}


@dataclass(frozen=True)
class World:
    """A shop with two versions of one file, a device's data directory with the first, and the update between them."""

    shop: Shop
    device: Path
    file: str
    old: bytes
    new: bytes
    update: Path

    @property
    def data(self) -> bytes:
        """The update object."""
        return self.update.read_bytes()

    def manifest(self, digest: str) -> Manifest:
        """A published manifest."""
        return index.decode_object((self.shop.path / names.manifest_object(digest)).read_bytes(), digest)[0]

    @property
    def digests(self) -> tuple[str, str]:
        """Manifest digests of base and target."""
        return self.update.name.partition(".")[0], self.update.parent.name


async def a_world(root: Path, file: str) -> World:
    shop = await Shop.open(root)
    old, new = PAIRS[file](1), PAIRS[file](2)
    await shop.publish_bytes(MODEL, old, file)
    device = Device(root / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull(MODEL, origin.url)
    await shop.publish_bytes(MODEL, new, file)
    (path,) = shop.objects("updates")
    return World(shop, device.data.root, file, old, new, path)


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit changed."""
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


def sampled(whole: bytes) -> Iterator[int]:
    """A bit of every byte of the header, and about DECODINGS bits of the payloads."""
    preamble = update.decode_preamble(whole)
    assert preamble is not None
    yield from (8 * place + place % 8 for place in range(preamble.payload_offset))
    front, end = 8 * preamble.payload_offset, 8 * len(whole)
    # An even step would always meet the same bit of a byte.
    yield from range(front, end, max(1, (end - front) // DECODINGS) | 1)


def carried_out(world: World, base: Manifest, data: bytes) -> tuple[Manifest, bytes]:
    """(manifest, stream) that a device computes from an update; FormatError where it refuses."""
    preamble = update.decode_preamble(data)
    if preamble is None:
        raise FormatError("the update is too short.")
    found = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base)
    if found.target.size != len(world.new) or found.payload_bytes != len(data) - preamble.payload_offset:
        raise FormatError("the update builds something else.")
    stream = check.build(found.operations, data[preamble.payload_offset :], world.old, found.tables)
    digests = (hashlib.sha256(stream[at : at + size]).hexdigest() for at, size, _ in found.target.chunks())
    return manifest.complete(found.target.skeleton, digests), stream


def flip_all(world: World, bits: Iterable[int]) -> None:
    """Every flip is refused, or the manifest's digest shows it, or it changed nothing that is installed."""
    base, target = map(world.manifest, world.digests)
    whole = world.data
    assert carried_out(world, base, whole) == (target, world.new)
    outcomes = {"refused": 0, "other digest": 0, "the same": 0}
    for bit in bits:
        try:
            found, stream = carried_out(world, base, flipped(whole, bit))
        except FormatError:
            outcomes["refused"] += 1
            continue
        same = found.digest == target.digest
        assert not same or stream == world.new
        outcomes["the same" if same else "other digest"] += 1
    assert outcomes["refused"] and outcomes["other digest"]
    # A zstd frame has bits that say nothing, such as how large a window is beyond what it needs.
    assert outcomes["the same"] < sum(outcomes.values()) // 10


@pytest.mark.parametrize("file", PAIRS)
async def test_decoders_refuse_a_flipped_update_or_its_digest_shows_it(file: str, tmp_path: Path) -> None:
    world = await a_world(tmp_path, file)
    flip_all(world, sampled(world.data))


@pytest.mark.long
@pytest.mark.parametrize("file", PAIRS)
async def test_every_single_bit_of_an_update_may_flip(file: str, tmp_path: Path) -> None:
    world = await a_world(tmp_path, file)
    await asyncio.to_thread(flip_all, world, range(8 * len(world.data)))


async def test_the_model_pair_travels_as_tensors(tmp_path: Path) -> None:
    """Else the flips here would miss the encodings that they are about."""
    world = await a_world(tmp_path, "model.safetensors")
    preamble = update.decode_preamble(world.data)
    assert preamble is not None
    header = world.data[preamble.offset : preamble.payload_offset]
    found = update.decode_header(preamble, header, world.manifest(world.digests[0]))
    assert codecs.RANS_DELTA in {op.encoding for op in found.operations if isinstance(op, Frame)}


@pytest.mark.parametrize("file", PAIRS)
async def test_daemon_installs_the_exact_file_whatever_bit_of_the_update_is_flipped(file: str, tmp_path: Path) -> None:
    world = await a_world(tmp_path, file)
    whole = world.data
    fell_back = 0
    async with ScriptedOrigin(world.shop.path) as origin:
        for number in range(PULLS):
            bit = (8 * len(whole) * number // PULLS) | (number % 8)

            def damage(exchange: Exchange, answer: Answer, content: bytes, bit: int = bit) -> Answer:
                if exchange.path.startswith("updates/") and answer.status == 200:
                    answer.body = flipped(content, bit)
                return answer

            origin.fault = damage
            origin.exchanges.clear()
            place = tmp_path / f"device {number}"
            shutil.copytree(world.device, place, symlinks=True)
            device = Device(place, world.shop.trust)
            await device.pull(MODEL, origin.url)
            assert device.files(MODEL) == {world.file: world.new}, bit
            assert any(path.startswith("updates/") for path in origin.objects())
            fell_back += any(path.startswith("packs/") for path in origin.objects())
            shutil.rmtree(place)
    assert fell_back >= PULLS - 2
