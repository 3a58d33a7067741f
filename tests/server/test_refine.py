"""Small edits, records and noise cost little more than they are, and no device gets what it can't read."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from bench.kinds import pairs
from modelsync_protocol import codecs, update
from modelsync_protocol.ops import Copy, Frame
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.repeat_candidate import encode_repeats
from modelsync_server.publish.tasks import updates
from modelsync_server.refine.frame_refiner import refined
from modelsync_server.refine.root_candidate import encode_roots
from tests.server.tensors.worlds import carried_out, source

_PAIRS = pairs(5)
_SMALL = sorted(case for case, (_, old, new) in _PAIRS.items() if len(old) + len(new) < 700_000)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("case", _SMALL)
def test_what_is_refined_comes_out_exact_and_no_larger(case: str, pool: ThreadPoolExecutor) -> None:
    suffix, old, new = _PAIRS[case]
    base, target = source({f"m.{suffix}": old}), source({f"m.{suffix}": new})
    oldest = smallest_update(base, target, pool)
    made = refined(base, target, oldest, pool)
    if made is None:
        return
    assert carried_out(made, base) == new
    header = update.encode_header(base.manifest, target.manifest, made.operations, made.tables, made.views)
    preamble = update.decode_preamble(header)
    assert preamble is not None
    assert update.decode_header(preamble, header[preamble.offset :], base.manifest).operations == made.operations


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_the_target_itself_may_stand_beside_what_is_refined(seed: int, pool: ThreadPoolExecutor) -> None:
    """What repeats itself and is edited too: once the price of such a copy was asked as if nothing were before it."""
    chance = random.Random(seed)
    block = chance.randbytes(6000 + chance.randrange(3000))
    old = b"".join(bytes(block) for _ in range(2)) + chance.randbytes(6000)
    edited = bytearray(old)
    for _ in range(chance.randrange(4, 12)):
        at = chance.randrange(len(edited) - 4)
        edited[at : at + 4] = chance.randbytes(4)
    fresh = chance.randbytes(chance.randrange(3000, 9000))
    new = bytes(edited) + fresh + chance.randbytes(50) + fresh[chance.randrange(2000) :]
    base, target = source({"m.bin": old}), source({"m.bin": new})
    repeats = encode_repeats(base, target, smallest_update(base, target, pool), pool)
    assert repeats is not None and any(isinstance(op, Copy) and op.own for op in repeats.operations)
    made = refined(base, target, repeats, pool) or repeats
    assert carried_out(made, base) == new
    update.encode_header(base.manifest, target.manifest, made.operations, made.tables, made.views)


@pytest.mark.parametrize(
    ("case", "share"),
    [("records", 0.95), ("onnx_linear", 0.9), ("onnx_linear_refit", 0.85), ("random_300k_moved", 0.8)],
)
def test_a_stride_is_found_without_a_reader(case: str, share: float, pool: ThreadPoolExecutor) -> None:
    suffix, old, new = _PAIRS[case]
    made = updates(source({f"m.{suffix}": old}), source({f"m.{suffix}": new}), 1 << 40, pool)
    assert len(made[2]) < share * len(made[1])


def test_an_edit_costs_its_bytes_and_a_dozen_more(pool: ThreadPoolExecutor) -> None:
    """Twenty edits of four bytes, far apart in what nothing shortens: 250 bytes, not what lies between them."""
    chance = random.Random(6)
    old = chance.randbytes(1_000_000)
    new = bytearray(old)
    for place in range(20_000, 1_000_000, 50_000):
        new[place : place + 4] = chance.randbytes(4)
    made = updates(source({"m.dat": old}), source({"m.dat": bytes(new)}), 1 << 40, pool)
    assert len(made[2]) <= 250


def test_a_scaler_s_deviations_follow_from_its_variances(pool: ThreadPoolExecutor) -> None:
    """A third of a StandardScaler is the square root of another third; a feature that never varies is an exception."""
    rows = np.random.default_rng(8).normal(3, 2, (400, 200)) ** 2
    rows[:, 7] = 5
    old, new = (pickle.dumps(StandardScaler().fit(rows[:n])) for n in (300, 400))
    base, target = source({"m.pkl": old}), source({"m.pkl": new})
    oldest = smallest_update(base, target, pool)
    made = encode_roots(base, target, oldest, pool)
    assert made is not None and carried_out(made, base) == new
    sizes = updates(base, target, 1 << 40, pool)
    assert len(sizes[2]) < 0.75 * len(sizes[1])
    other = source({"m.pkl": pickle.dumps({"w": rows[0], "v": rows[1]})})
    assert encode_roots(base, other, oldest, pool) is None


def test_version_1_stays_what_older_devices_read(pool: ThreadPoolExecutor) -> None:
    suffix, old, new = _PAIRS["records"]
    base = source({f"m.{suffix}": old})
    made = updates(base, source({f"m.{suffix}": new}), 1 << 40, pool)
    for version, known in ((1, False), (2, True)):
        preamble = update.decode_preamble(made[version].header)
        assert preamble is not None and preamble.version == version
        header = made[version].header[preamble.offset : preamble.payload_offset]
        operations = update.decode_header(preamble, header, base.manifest).operations
        ids = {op.encoding for op in operations if isinstance(op, Frame)}
        assert bool(ids & {codecs.RECORDS, codecs.STORED}) is known


def test_bytes_that_are_stored_twice_are_copied_the_second_time(pool: ThreadPoolExecutor) -> None:
    chance = random.Random(7)
    old, edit = chance.randbytes(60_000), chance.randbytes(40)
    new = old[:20_000] + edit + old[20_000:40_000] + edit + old[40_000:]
    base, target = source({"m.dat": old}), source({"m.dat": new})
    made = refined(base, target, smallest_update(base, target, pool), pool)
    assert made is not None and carried_out(made, base) == new
    assert sum(map(len, made.payloads)) == len(edit)
    assert any(isinstance(op, Copy) and op.own for op in made.operations)
