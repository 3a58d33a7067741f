"""What text repeats from far back in its target is found without indexing all of that, and any device reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import zstd
from modelsync_server.encode import encoder
from modelsync_server.encode.encoder import encode_alone
from modelsync_server.encode.far_context import far_context
from modelsync_server.tensors.effort import Effort
from tests.server.tensors.worlds import source

_SHORT = 64 * caps.KIB


def _text(seed: int, size: int) -> bytes:
    """Words of letters, so most byte values are absent."""
    rng = np.random.default_rng(seed)
    words = [bytes(rng.integers(97, 123, int(n)).astype(np.uint8)) for n in rng.integers(2, 9, 4000)]
    return b" ".join(words[n] for n in rng.integers(0, len(words), size // 5))[:size]


def test_a_painted_context_gives_matches_that_hold_in_the_bytes_themselves() -> None:
    first = _text(1, 600_000)
    again = bytearray(_text(2, 120_000))
    for at in range(0, 100_000, 5_000):  # lines that stood far back, at any distance, in text that is new
        again[at + at % 7 : at + at % 7 + 900] = first[2 * at : 2 * at + 900]
    stream = memoryview(first + _text(3, _SHORT) + bytes(again))
    start = len(first) + _SHORT
    painted = far_context(stream, start, len(again), _SHORT)
    assert painted is not None
    assert painted[-_SHORT:] == stream[start - _SHORT : start]
    payload = zstd.compress(bytes(again), painted)
    real = bytes(stream[start - len(painted) : start])
    assert painted != real
    assert zstd.decompress(payload, len(again), real) == again
    assert len(payload) < 0.95 * len(zstd.compress(bytes(again), real[-_SHORT:]))


def test_what_repeats_nothing_or_holds_every_byte_has_no_far_context() -> None:
    text, noise = _text(1, 500_000), np.random.default_rng(4).bytes(300_000)
    alone = bytes(np.random.default_rng(5).integers(0, 97, 100_000).astype(np.uint8))
    assert far_context(memoryview(text + alone), len(text), len(alone), _SHORT) is None
    assert far_context(memoryview(noise + noise), len(noise), len(noise), _SHORT) is None
    assert far_context(memoryview(text), 1000, 5000, _SHORT) is None
    for size in (1, 3, 5):
        assert far_context(memoryview(text), len(text) - size, size, _SHORT) is None


def test_frames_of_packs_lean_far_back_where_that_pays() -> None:
    block = _text(6, 540_000)
    lines = [block[at : at + 60] for at in range(0, len(block), 60)]
    stream = block + b"".join(lines[n] for n in np.random.default_rng(7).permutation(len(lines)))
    target = source({"a.txt": stream})
    with ThreadPoolExecutor(2) as pool:
        made = encode_alone(target, [list(target.manifest.chunks())], pool, Effort.DEFAULT)
    position = 0
    for frame, payload in made:
        before = stream[position - frame.prefix : position]
        whole = codecs.decode(frame.encoding, bytes(payload), frame.length, b"", before, b"")
        assert whole == stream[position : position + frame.length]
        position += frame.length
    assert position == len(stream)
    assert max(frame.prefix for frame, _ in made) > encoder._SHORT_PREFIX_BYTES
