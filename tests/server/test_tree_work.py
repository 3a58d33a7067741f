"""What an update of few files costs its publisher grows with what changed, not with the folder: counted, not timed."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from modelsync_protocol import containers
from modelsync_protocol.codecs import zstd
from modelsync_server.encode import repeat_finder, tree_candidate
from modelsync_server.encode.changed import stretches
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Source
from modelsync_server.encode.repeat_candidate import encode_repeats
from modelsync_server.plain import member_finder
from modelsync_server.publish import tasks
from modelsync_server.refine.root_candidate import encode_roots
from modelsync_server.tensors import float_guesser
from modelsync_server.tensors.effort import Effort
from tests.server.tensors.worlds import carried_out, safetensors, source

_CHANGED = 9


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def _text(number: int, size: int) -> bytes:
    random = np.random.default_rng((7, number))
    return b" ".join(b"word%d" % word for word in random.zipf(1.4, size) % 900)[:size]


def _folder(unchanged: int) -> tuple[Source, Source]:
    """An environment: text, tensors, archives, floats without a container; nine files differ, by a lot or a little."""
    old: dict[str, bytes] = {}
    for number in range(unchanged):
        old[f"rest/{number % 7}/{number}.py"] = _text(number, 3000)
        if number % 10 == 0:
            random = np.random.default_rng((8, number))
            weights = random.normal(0, 0.02, (64, 64)).astype("<f4")
            old[f"rest/{number}.safetensors"] = safetensors({"w": ("f32", weights)})
            old[f"rest/{number}.dat"] = random.normal(0, 0.02, 9000).astype("<f4").tobytes()
            old[f"rest/{number}.txt.gz"] = gzip.compress(_text(number, 2000), mtime=0)
    for number in range(_CHANGED):
        old[f"work/{number}.py"] = _text(5000 + number, 9000)
    new = dict(old)
    for number in range(_CHANGED):
        text = old[f"work/{number}.py"]
        moved = old[f"work/{(number + 4) % _CHANGED}.py"][1001:4000]
        new[f"work/{number}.py"] = text[:4000] + moved + _text(6000 + number, 600) + text[4000:]
    return source(old), source(new)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes that are looked at, by what looks at them."""
    done: Counter[str] = Counter()

    def counted(module: Any, name: str, size: Callable[..., int]) -> None:
        real = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            done[name] += size(*args, **options)
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    monkeypatch.setattr(zstd, "_LEVEL", 3)  # what is looked at is the same, and sooner done
    counted(zstd, "_compress", lambda data, dictionary, tuning: len(data) + len(dictionary))
    counted(repeat_finder, "_rolling", lambda data, mask: len(data))
    counted(repeat_finder, "_telling", lambda rows: rows.size)
    counted(tree_candidate, "promising", len)
    counted(containers, "tensors", lambda path, data: len(data))
    counted(float_guesser, "floats", len)
    counted(member_finder, "members", lambda path, data: len(data))
    return done


def test_every_candidate_looks_at_what_changed_whatever_lies_beside_it(
    pool: ThreadPoolExecutor, work: Counter[str]
) -> None:
    spent = []
    for unchanged in (40, 240):
        base, target = _folder(unchanged)
        work.clear()
        made = tasks.updates(base, target, 10 * target.manifest.size, pool)
        assert len(min(made.values(), key=len)) < 40_000
        spent.append(Counter(work))
    few, many = spent
    changed = _CHANGED * 13_000
    assert few["_rolling"] and few["_compress"] and few["promising"], "the test's update is not looked at at all"
    for name in many:
        # Names of files and what they hold are in the header: it grows by some bytes a file.
        assert many[name] - few[name] <= (0.1 if name != "_compress" else 0.5) * changed, (name, few, many)


def test_an_edit_of_a_few_bytes_is_not_looked_through_for_repeats(pool: ThreadPoolExecutor, work: Counter[str]) -> None:
    base, _ = _folder(20)
    stream = bytearray(base.stream)
    position = base.manifest.file_offsets[-3] + 100
    stream[position : position + 5] = b"other"
    files = zip(base.manifest.files, base.manifest.file_offsets, base.manifest.file_offsets[1:], strict=False)
    target = source({file.path: bytes(stream[begin:end]) for file, begin, end in files})
    oldest = smallest_update(base, target, pool, effort=Effort.DEFAULT)
    work.clear()
    assert encode_repeats(base, target, oldest, pool) is None
    assert not work


def test_repeats_are_found_in_little_of_much_as_in_all_of_it() -> None:
    base, target = _folder(200)
    edges = target.manifest.file_offsets
    paths = [file.path for file in target.manifest.files]
    begin, end = edges[paths.index("work/0.py")], edges[paths.index(f"work/{_CHANGED - 1}.py") + 1]
    found, wanted = (
        [repeat for repeat in repeat_finder.repeats(base.stream, target.stream, where) if begin <= repeat.target < end]
        for where in (None, [(begin, end)])
    )
    assert found == wanted
    assert sum(not repeat.own and repeat.source != repeat.target for repeat in found) >= _CHANGED


def test_a_root_that_is_found_leaves_what_did_not_change_copied(pool: ThreadPoolExecutor) -> None:
    random = np.random.default_rng(11)
    rest = {f"rest/{number}.py": _text(number, 3000) for number in range(20)}
    variances = [random.gamma(2.0, 3.0, 200) for _ in range(2)]
    base, target = (
        source({**rest, "scaler.safetensors": safetensors({"var": ("f64", v), "scale": ("f64", np.sqrt(v))})})
        for v in variances
    )
    oldest = smallest_update(base, target, pool, effort=Effort.DEFAULT)
    made = encode_roots(base, target, oldest, pool, Effort.DEFAULT)
    assert made is not None and made.cost < oldest.cost
    assert carried_out(made, base) == bytes(target.stream)
    assert sum(stretch.end - stretch.begin for stretch in stretches(made)) <= target.manifest.files[-1].size
    same = smallest_update(target, target, pool, effort=Effort.DEFAULT)
    assert encode_roots(target, target, same, pool, Effort.DEFAULT) is None
