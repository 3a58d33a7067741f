"""Release records: every JSON value comes back as it was, what can't be written is named, hostile ones are refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol import canonical, caps, release_record
from modelsync_protocol.errors import FormatError, UsageError
from modelsync_protocol.release_record import ReleaseRecord

WHEN = datetime(2026, 11, 27, 9, 0, 0, tzinfo=UTC)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | FLOATS | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda key: key != "decimal"), inner, max_size=4)
    ),
    max_leaves=12,
)


def round_trip(metadata: dict[str, Any]) -> Any:
    data = release_record.encode(ReleaseRecord(WHEN, metadata))
    return release_record.decode(data, canonical.digest(data)).metadata


@given(value=VALUES)
def test_every_json_value_comes_back_as_it_was(value: Any) -> None:
    again = round_trip({"x": value})["x"]
    written, read = (json.dumps(each, sort_keys=True) for each in (value, again))
    assert read == written  # as text, which tells 1 from 1.0 and 0.0 from -0.0


@pytest.mark.parametrize(
    ("given_", "read"),
    [
        (np.float32(0.93), 0.93),
        (np.float64(0.1), 0.1),
        (np.int64(7), 7),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (Decimal("0.930"), 0.93),
        (Decimal("1E+3"), 1000.0),
        (Fraction(1, 4), 0.25),
        ((1, 2), [1, 2]),
    ],
)
def test_numbers_of_other_libraries_are_taken_by_what_they_are(given_: Any, read: Any) -> None:
    again = round_trip({"x": given_})["x"]
    assert again == read and type(again) is type(read)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"auc": float("nan")}, "'auc' is nan"),
        ({"metrics": {"auc": float("inf")}}, "'metrics': 'auc' is inf"),
        ({"auc": np.float32("nan")}, "'auc' is nan"),
        ({"x": b"bytes"}, "is of type bytes"),
        ({"x": {1: 2}}, "the key 1"),
        ({"x": object()}, "is of type object"),
        ({"x": 1j}, "is of type complex"),
        ({"author": 5}, "'author' in the metadata is text"),
        ({"metrics": 0.93}, "'metrics' in the metadata is an object"),
        ({"decimal": "1"}, "give a JSON object"),
        ({"x": "\ud800"}, "can't be written"),
        ({"x": "y" * caps.MAX_RELEASE_RECORD_BYTES}, "at most 64 KiB"),
    ],
)
def test_what_cannot_be_written_is_named(metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        release_record.encode(ReleaseRecord(WHEN, metadata))
    assert words in str(caught.value) and str(caught.value).endswith(".")


def test_nesting_is_bounded_both_ways() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(UsageError, match="nested"):
        release_record.encode(ReleaseRecord(WHEN, {"x": deep}))
    text = b'{"format":1,"metadata":{"x":' + b"[" * 40 + b"]" * 40 + b'},"published":"2026-11-27T09:00:00Z"}'
    with pytest.raises(FormatError, match="nested"):
        release_record.decode(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format":1,"metadata":{},"published":"2026-11-27T09:00:00Z","more":1}',
        '{"format":1,"metadata":[],"published":"2026-11-27T09:00:00Z"}',
        '{"format":1,"metadata":{},"published":"yesterday"}',
        '{"format":2,"metadata":{},"published":"2026-11-27T09:00:00Z"}',
        '{"format":1,"metadata":{"a":0.5},"published":"2026-11-27T09:00:00Z"}',
        '{"format":1,"metadata":{"a":{"decimal":"nan"}},"published":"2026-11-27T09:00:00Z"}',
        '{"format":1,"metadata":{"a":{"decimal":"1e9999"}},"published":"2026-11-27T09:00:00Z"}',
        '{"format":1,"metadata":{"a":{"decimal":5}},"published":"2026-11-27T09:00:00Z"}',
        '{"format":1,"metadata":{"a":1,"a":2},"published":"2026-11-27T09:00:00Z"}',
    ],
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        release_record.decode(text.encode())


def test_another_content_than_the_signed_one_is_refused() -> None:
    data = release_record.encode(ReleaseRecord(WHEN, {"a": 1}))
    with pytest.raises(FormatError, match="another digest"):
        release_record.decode(data, "0" * 64)
