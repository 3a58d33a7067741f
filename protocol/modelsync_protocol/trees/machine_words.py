"""NumPy's functions whose arguments or results are as wide as the machine's words: here they are 64 bits everywhere.

On 32-bit machines NumPy takes no int64 for counts and indices of these, and gives int32, in which sums may overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def repeated(values: ArrayLike, counts: ArrayLike) -> NDArray[Any]:
    """np.repeat."""
    result: NDArray[Any] = np.repeat(np.asarray(values), np.asarray(counts).astype(np.intp))
    return result


def counted(keys: ArrayLike, minlength: int = 0) -> NDArray[np.int64]:
    """np.bincount."""
    return np.bincount(np.asarray(keys).astype(np.intp), minlength=minlength).astype(np.int64)


def numbered(*bounds: int) -> NDArray[np.int64]:
    """np.arange."""
    return np.arange(*bounds, dtype=np.int64)
