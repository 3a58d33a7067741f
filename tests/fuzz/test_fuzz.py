"""No parser crashes, hangs or takes more memory than allowed: on kept inputs, on mutants of them, and on bombs.

`make fuzz` searches for new inputs, guided by coverage; here it's the same inputs every time.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.fuzz.bombs import LONG
from tests.fuzz.kept import CORPUS, REGRESSIONS, ROOT, inputs
from tests.fuzz.mutate import mutants
from tests.fuzz.run import MAX_KEPT_BYTES
from tests.fuzz.targets import TARGETS

MUTANTS = 200
PROCESSOR_SECONDS = 10.0
"""A hundred times what an input takes: only a parser that is not bounded takes longer."""


def within_time(target: str, data: bytes) -> None:
    start = time.process_time()
    TARGETS[target](data)
    assert time.process_time() - start < PROCESSOR_SECONDS


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_kept_inputs_and_their_mutants_do_no_harm(target: str) -> None:
    kept = inputs(CORPUS, target) + inputs(REGRESSIONS, target)
    assert kept, "make a corpus first: docs/fuzzing.md"
    for data in [b"", *kept, *mutants(kept, MUTANTS, target)]:
        within_time(target, data)


@pytest.mark.parametrize("bomb", LONG)
def test_small_inputs_do_not_take_long(bomb: str) -> None:
    target, make = LONG[bomb]
    within_time(target, make())


def test_small_inputs_do_not_take_much_memory() -> None:
    command = [sys.executable, "-m", "tests.fuzz.bounded"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_target_has_a_small_corpus_and_nothing_else_is_kept() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    kept = REGRESSIONS.iterdir() if REGRESSIONS.is_dir() else iter(())
    assert {path.name for path in kept} <= set(TARGETS)
    for name in TARGETS:
        assert sum(map(len, inputs(CORPUS, name))) <= MAX_KEPT_BYTES


def test_a_finding_stays_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the targets swallow is a refusal, and nothing else."""

    def broken(path: str, data: memoryview) -> list[object]:
        raise OverflowError("a parser's mistake")

    monkeypatch.setattr("modelsync_protocol.containers.tensors", broken)
    with pytest.raises(OverflowError):
        TARGETS["read-onnx"](b"")
