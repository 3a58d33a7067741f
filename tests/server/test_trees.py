"""Updates of tree ensembles: frames that a device decodes in its memory, and old devices' updates beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelsync_protocol import codecs
from modelsync_protocol.ops import Frame
from modelsync_server.encode import tree_candidate
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.tree_candidate import encode_trees, tree_counts
from modelsync_server.publish.tasks import updates
from tests.server.tensors.worlds import carried_out, source
from tests.support import boosted_files, tree_files

MAKERS: dict[str, Callable[[int, int], bytes]] = {
    "m.txt": boosted_files.light,
    "m.joblib": lambda seed, trees: boosted_files.histogram(seed, trees, of=28),
    "m.onnx": boosted_files.tensor_ensemble,
    "m.pkl": tree_files.pickled,
    "m.json": tree_files.booster,
}


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("name", MAKERS)
def test_devices_that_know_format_2_pay_less_than_those_of_format_1(name: str, pool: ThreadPoolExecutor) -> None:
    old, new = (source({name: MAKERS[name](seed, 20)}) for seed in (1, 2))
    made = updates(old, new, 1 << 40, pool)
    assert set(made) == {1, 2} and len(made[2]) < 0.8 * len(made[1])


@pytest.mark.parametrize("name", ["m.txt", "m.joblib"])
def test_frames_of_trees_are_bounded_by_their_nodes(
    name: str, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_candidate, "_NODES", 600)
    monkeypatch.setattr(tree_candidate, "_BASE_NODES", 900)
    old, new = (source({name: MAKERS[name](seed, 28)}) for seed in (1, 2))
    made = encode_trees(old, new, smallest_update(old, new, pool), pool)
    assert made is not None
    frames = [op for op in made.operations if isinstance(op, Frame) and op.encoding == codecs.TREE_COLUMNS]
    assert len(frames) > 1
    assert all(frame.length <= 600 * 55 and frame.base_length <= 900 * 55 for frame in frames)
    assert carried_out(made, old) == bytes(new.stream)


@pytest.mark.parametrize("name", ["m.txt", "m.joblib", "m.pkl", "m.json"])
def test_trees_that_two_versions_share_are_counted(name: str) -> None:
    old, grown = MAKERS[name](3, 8), MAKERS[name](3, 10)
    assert tree_counts(old, grown).shared == 8  # type: ignore[union-attr]  # it has trees
    assert tree_counts(MAKERS[name](4, 8), old).shared == 0  # type: ignore[union-attr]  # it has trees
    assert tree_counts(b"", b"nothing of trees") is None
