"""Where an update's bytes went: all of them are somewhere, in streams and through plain views; the picture tiles."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol.errors import UsageError
from modelsync_protocol.ops import Copy, Frame
from modelsync_protocol.plain.recipes import Recipe, Wrapping
from modelsync_protocol.plain.view import Member, View
from modelsync_server import Store, create_store
from modelsync_server.cli.pictures import squarified
from modelsync_server.publish.update_bytes import UpdateBytes
from tests.support import block_pairs
from tests.support.modelsync_command import runner


def test_tensors_in_blocks_are_named(tmp_path: Path) -> None:
    store = create_store(tmp_path / "store", keys=tmp_path / "keys").store
    for step in (0.0, 3e-4):
        (tmp_path / "net.gguf").write_bytes(block_pairs.model("q4_0", step))
        store.publish("net", tmp_path / "net.gguf")
    found = store.explain("net", 1, 2)
    assert found.bytes == found.header_bytes + sum(part.bytes for part in found.parts)
    assert {part.tensor for part in found.parts} == {*block_pairs.tensors("q4_0", 0.0), None}
    assert found.encodings["blocks"] > 0.9 * found.bytes


def _publish(store: Store, folder: Path, *, packed: bool) -> None:
    rng = np.random.default_rng(7)
    old = {name: rng.normal(0, 0.02, (96, 300)).astype(np.float32) for name in ("quiet", "moved", "stirred")}
    new = {name: (old[name] * np.float32(1 + step)) for name, step in (("quiet", 0), ("moved", 1e-4), ("stirred", 0.3))}
    new["stirred"] += rng.normal(0, 1e-2, (96, 300)).astype(np.float32)
    for weights in (old, new):
        (np.savez_compressed if packed else np.savez)(folder / "net.npz", **weights)
        store.publish("net", folder / "net.npz")


@pytest.mark.parametrize("packed", [False, True])
def test_every_byte_of_an_update_is_explained(tmp_path: Path, packed: bool) -> None:
    store = create_store(tmp_path / "store", keys=tmp_path / "keys").store
    _publish(store, tmp_path, packed=packed)
    found = store.explain("net", 1, 2)
    assert found.bytes == store.price("net", 2, base=1).bytes
    assert found.bytes == found.header_bytes + sum(part.bytes for part in found.parts)
    assert sum(found.encodings.values()) == found.bytes - found.header_bytes
    paid: dict[str, int] = {}
    for part in found.parts:
        name = next((name for name in ("quiet", "moved", "stirred") if name in f"{part.path} {part.tensor}"), "")
        paid[name] = paid.get(name, 0) + part.bytes
    assert paid["stirred"] > 10 * paid.get("quiet", 0)
    (file,) = store.diff("net", 1, 2).files
    assert file.update_bytes == found.bytes - found.header_bytes

    with pytest.raises(UsageError, match="no update object leads from version 2 to 1"):
        store.explain("net", 2, 1)


def test_the_command_tells_and_draws_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(monkeypatch, capsys)
    store = create_store(tmp_path / "store", keys=tmp_path / "keys").store
    _publish(store, tmp_path, packed=False)
    picture = tmp_path / "bytes.svg"
    document = run("explain", tmp_path / "store", "net", 1, 2, "--picture", picture, "--json").json
    assert document["bytes"] == document["header_bytes"] + sum(part["bytes"] for part in document["parts"])
    titles = [element.text or "" for element in ElementTree.parse(picture).iter() if element.tag.endswith("title")]
    assert sum(int(title.rpartition(": ")[2].split()[0].replace(",", "")) for title in titles) == document["bytes"]


def test_costs_of_a_view_lie_where_the_members_lie() -> None:
    # stream: 10 rest, 20 packed (of 100), 10 rest, 20 packed (of 50), 5 rest; the view has the second member first
    raw = Recipe(Wrapping.RAW, 6)
    view = View(65, [Member(40, 20, 50, raw), Member(10, 20, 100, raw)])
    operations = (Frame(25, 1, 250), Frame(50, 2, 5000), Copy(90, 0), Frame(10, 1, 7))
    spent = UpdateBytes(0, (0, 25, 75, 165), operations, view)
    assert spent.by_encoding(0, 10) == {"zstd": 100}
    assert spent.by_encoding(40, 20) == {"zstd patch": 5000}
    assert spent.by_encoding(10, 20) == {"copy": 0, "zstd": 7}
    assert spent.by_encoding(60, 5) == {"zstd": 50}
    for cuts in ([0, 13, 29, 41, 59, 65], [0, 1, 65], [0, 30, 40, 65]):
        assert sum(spent.of(a, b - a)[0] for a, b in pairwise(cuts)) == 5257


def test_rectangles_tile_the_picture_by_their_sizes() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 7, 200):
        sizes = sorted((int(size) for size in rng.lognormal(6, 2, count) + 1), reverse=True)
        boxes = squarified(sizes, (5, 7, 400, 250))
        for size, (x, y, width, height) in zip(sizes, boxes, strict=True):
            assert width * height == pytest.approx(size * 400 * 250 / sum(sizes), rel=1e-6)
            assert x >= 5 - 1e-6 and y >= 7 - 1e-6 and x + width <= 405 + 1e-6 and y + height <= 257 + 1e-6
