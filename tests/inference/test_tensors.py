"""Tensors survive both wire forms, and what doesn't fit is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelsync_inference import InputError
from modelsync_inference.runtimes.datatypes import numpy_dtype
from modelsync_inference.runtimes.tensors import from_binary, from_json, to_binary, to_json

NUMBERS = ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_survive_json_and_binary(datatype: str) -> None:
    dtype = numpy_dtype(datatype)
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    array = np.array([[limits.min, 0, 1], [2, 3, limits.max]], dtype=dtype)
    assert (from_json("t", [2, 3], datatype, to_json("t", array)) == array).all()
    binary = from_binary("t", [2, 3], datatype, to_binary(array))
    assert (binary == array).all()
    assert binary.dtype == dtype


def test_booleans_and_texts_survive_json_and_binary() -> None:
    flags = np.array([True, False])
    assert from_json("t", [2], "BOOL", to_json("t", flags)).tolist() == [True, False]
    assert from_binary("t", [2], "BOOL", to_binary(flags)).tolist() == [True, False]
    texts = np.array(["grün", "", "x"], dtype=np.object_)
    assert from_json("t", [3], "BYTES", to_json("t", texts)).tolist() == ["grün", "", "x"]
    assert from_binary("t", [3], "BYTES", to_binary(texts)).tolist() == ["grün".encode(), b"", b"x"]


def test_nested_lists_are_row_major() -> None:
    assert from_json("t", [2, 2], "INT32", [[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert from_json("t", [2, 2], "INT32", [1, 2, 3, 4]).tolist() == [[1, 2], [3, 4]]
    assert from_json("t", [1, 2], "BYTES", [["a", "b"]]).tolist() == [["a", "b"]]


def test_floats_written_with_all_their_digits_are_floats() -> None:
    assert from_json("t", [2], "FP64", [10**20, 0.5]).tolist() == [1e20, 0.5]
    assert from_json("t", [1], "FP32", [10**20]).tolist() == [np.float32(1e20)]


@pytest.mark.parametrize("datatype", [*NUMBERS, "BOOL", "BYTES"])
def test_empty_tensors_are_tensors(datatype: str) -> None:
    assert from_json("t", [0, 3], datatype, []).shape == (0, 3)
    assert from_binary("t", [0, 3], datatype, b"").shape == (0, 3)


@pytest.mark.parametrize(
    ("shape", "datatype", "data"),
    [
        ([2], "INT32", [1]),
        ([1], "INT32", [1.5]),
        ([1], "INT32", [True]),
        ([1], "INT32", ["1"]),
        ([1], "INT32", [None]),
        ([1], "UINT8", [256]),
        ([1], "UINT8", [-1]),
        ([1], "INT64", [2**63]),
        ([1], "UINT64", [2**64]),
        ([1], "FP32", ["1"]),
        ([1], "FP32", [10**400]),
        ([1], "FP32", [{}]),
        ([1], "FP32", [None]),
        ([1], "BOOL", [2]),
        ([1], "BYTES", [1]),
        ([3], "FP32", [[1, 2], [3]]),
        ([1], "FP32", 1),
        ([1], "FP32", None),
        ([1], "BF16", [1]),
        ([1], 5, [1]),
        ([-1], "FP32", [1]),
        ([1.0], "FP32", [1]),
        ([True], "FP32", [1]),
        ("1", "FP32", [1]),
        (None, "FP32", [1]),
        ([1] * 33, "FP32", [1]),
    ],
)
def test_json_that_does_not_fit_is_refused(shape: object, datatype: object, data: object) -> None:
    with pytest.raises(InputError):
        from_json("t", shape, datatype, data)


@pytest.mark.parametrize(
    ("shape", "datatype", "raw"),
    [
        ([2], "FP32", b"\0" * 7),
        ([2], "FP32", b"\0" * 9),
        ([1], "BYTES", b""),
        ([1], "BYTES", b"\2\0\0"),
        ([1], "BYTES", b"\2\0\0\0x"),
        ([1], "BYTES", b"\xff\xff\xff\xffx"),
        ([1], "BYTES", b"\1\0\0\0xy"),
        ([10**9, 10**9], "UINT8", b""),
        ([10**9, 10**9], "BYTES", b""),
    ],
)
def test_bytes_that_do_not_fit_are_refused(shape: list[int], datatype: str, raw: bytes) -> None:
    with pytest.raises(InputError, match="'t'"):
        from_binary("t", shape, datatype, raw)


def test_bytes_that_are_not_text_ask_for_binary() -> None:
    with pytest.raises(InputError, match="binary_data"):
        to_json("t", np.array([b"\xff"], dtype=np.object_))
