"""What samples decide: the same device reads it, it is hardly larger, and it does not depend on threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modelsync_protocol.codecs import models, numerals
from modelsync_protocol.codecs.segments import Coded, Factors, Mode, Predictor
from modelsync_protocol.errors import UsageError
from modelsync_server.encode.encoder import Source
from modelsync_server.encode.tensor_encoder import encode_tensors
from modelsync_server.publish.publisher import effort_named
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pieces import Piece
from modelsync_server.tensors.sample import Sample
from tests.server.tensors.worlds import carried_out, safetensors, source

SHAPES = ((1 << 20, (1024,), 0), (700_000, (768,), 1000), (1 << 19, (2304, 9), 5), (600_000, (600_000,), 0))


@pytest.mark.parametrize(("count", "widths", "first"), SHAPES)
def test_a_sample_of_a_segment_says_what_the_whole_says_there(count: int, widths: tuple[int, ...], first: int) -> None:
    piece = Piece(0, count, numerals.F32, first, widths, 0)
    sample = Sample.of(piece)
    assert sample is not None
    chance = np.random.default_rng(3)
    places = sample.take(np.arange(count, dtype=np.uint32)).astype(np.int64)
    assert len(set(places.tolist())) == len(places) == sample.small.count
    old = chance.integers(1 << 29, 1 << 30, count, dtype=np.uint32)
    for width in widths:
        if width >= count:
            continue
        column = first % width
        rows = -(-(column + count) // width)
        for along, length in ((Predictor.ROW, rows), (Predictor.COLUMN, width)):
            factors = Factors(along, 8, chance.integers(200, 300, length).astype(np.int32))
            whole = Coded(
                Mode.DELTA, numerals.F32, 0, count, 0, width, column, 40,
                rows=chance.integers(0, 9, rows).astype(np.uint8),
                offsets=chance.integers(0, 9, width).astype(np.uint8), factors=factors,
            )  # fmt: skip
            guess, contexts = models.modelled(whole, old, 0, count)
            less, fewer = models.modelled(sample.part(whole), old[places], 0, len(places))
            assert guess is not None
            assert less is not None
            assert np.array_equal(guess[places], less)
            assert np.array_equal(contexts[places], fewer)


def test_small_pieces_have_no_sample() -> None:
    assert Sample.of(Piece(0, 100_000, numerals.F16, 0, (512,), None)) is None


def test_only_names_of_levels_are_levels() -> None:
    assert effort_named("fast") is Effort.FAST
    with pytest.raises(UsageError, match="fast, default, max"):
        effort_named("hard")


def _pair() -> tuple[Source, Source]:
    chance = np.random.default_rng(5)
    old = (chance.standard_normal((3, 1100, 1024), np.float32) * 0.02 * chance.gamma(2, 1, (3, 1100, 1))).astype("<f4")
    new = old + (chance.standard_normal(old.shape, np.float32) * 1e-5).astype("<f4")
    both = [
        safetensors({f"layer.{n}": ("f16", part.astype("<f2")) for n, part in enumerate(values)})
        for values in (old, new)
    ]
    return source({"m.safetensors": both[0]}), source({"m.safetensors": both[1]})


def test_samples_cost_next_to_nothing_and_change_no_reader() -> None:
    base, target = _pair()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(3) as many:
        for lean in (base, None):
            sampled = encode_tensors(lean, target, one, effort=Effort.DEFAULT)
            assert sampled is not None
            assert sampled == encode_tensors(lean, target, many, effort=Effort.DEFAULT)
            assert carried_out(sampled, lean) == bytes(target.stream)
            whole = encode_tensors(lean, target, many, effort=Effort.MAX)
            assert whole is not None
            assert sampled.cost <= 1.003 * whole.cost
