"""A rollout's record: what is written into labels is what is read back, zeros and all."""

from __future__ import annotations

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.rollout import record
from modelsync_server.rollout.gate import Counts, Gate
from modelsync_server.rollout.record import Record, RingRecord, State
from modelsync_server.rollout.target import Kind, Target

ZEROS = RingRecord("a", "*", Gate(), 0, 0, 0, 0, 0.0, 0.0, 0, 0, False, Counts())
NUMBERS = RingRecord(
    "b", "tags.x = 'ü\\''", Gate(active=3), 5, 4, 10**15, 25, 1.7e9, 1.7e9 + 1e-3, 3, 90, True, Counts(4, 3)
)
NEW = RingRecord("c", "*", Gate(active=1.0, soak=0.0, wait=1.5, returns=False))


@pytest.mark.parametrize("ring", [ZEROS, NUMBERS, NEW])
def test_a_record_survives_its_labels(ring: RingRecord) -> None:
    made = Record(
        "abc123", "an-omaly", 3, Target(Kind.EDGE, "m"), State.RETURNING, (ring, NEW), "ann", 1.7e9 + 0.1234567, 1,
        "why", 7, (0, 1), True, True, False, 0.0, "EUR",
    )  # fmt: skip
    assert record.parse(made.labels(), "") == made


@pytest.mark.parametrize(
    ("key", "value"),
    [("started", "nan"), ("ring", "9"), ("version", "x"), ("target", "cloud"), ("rollout", "'; --"), ("options", "[]")],
)
def test_labels_that_a_hand_spoilt_are_refused(key: str, value: str) -> None:
    made = Record("abc123", "m", 3, Target(), State.RUNNING, (NEW,))
    with pytest.raises(UsageError):
        record.parse({**made.labels(), key: value}, "")
