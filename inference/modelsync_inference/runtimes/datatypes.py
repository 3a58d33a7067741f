"""Datatypes by their Open Inference Protocol names, and the numpy types that carry them. No tensors here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelsync_inference.errors import InputError

Array = npt.NDArray[Any]

BYTES = "BYTES"
_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    BYTES: np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}


def numpy_dtype(datatype: object) -> np.dtype[Any]:
    """The numpy type of `datatype` (BYTES: object, whose items are str or bytes); InputError for other names."""
    if not isinstance(datatype, str) or datatype not in _NUMPY:
        raise InputError(f"{datatype!r:.40} is not a datatype that is served; use one of {', '.join(_NUMPY)}.")
    return _NUMPY[datatype]


def datatype_of(array: Array) -> str:
    """The protocol's name for `array`'s type; fixed-width strings count as BYTES; InputError if there is none."""
    if array.dtype.kind in "SU":
        return BYTES
    try:
        return _NAMES[array.dtype.newbyteorder("=")]
    except KeyError:
        raise InputError(f"arrays of numpy type {array.dtype} can't be served; convert them first.") from None
