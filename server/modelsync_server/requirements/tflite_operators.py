"""From the versions of a TensorFlow Lite file's operators to the release that reads them, for files that don't say it.

The releases are TensorFlow's own (tensorflow/lite/tools/versioning/runtime_version.cc), for the operators that models
are made of; an operator or a version that is not here says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelsync_protocol.requirements.releases import release_of

_SINCE = {
    0: "1.5 1.14 2.4 2.6",  # ADD
    1: "1.5 1.14 2.3",  # AVERAGE_POOL_2D
    2: "1.5 1.14 2.3",  # CONCATENATION
    3: "1.5 1.14 1.14 2.3 2.4 2.9",  # CONV_2D
    4: "1.5 1.12 1.14 2.2 2.3 2.3",  # DEPTHWISE_CONV_2D
    5: "2.1 2.5",  # DEPTH_TO_SPACE
    6: "1.13 1.14 1.15 2.2 2.7",  # DEQUANTIZE
    9: "1.5 1.10 1.14 1.14 2.0 2.1 2.3 2.3 2.3",  # FULLY_CONNECTED
    14: "1.14 1.14 2.3",  # LOGISTIC
    16: "1.7 1.10 1.14 2.3",  # LSTM
    17: "1.5 1.14 2.3",  # MAX_POOL_2D
    18: "1.5 1.14 1.15 2.3 2.6",  # MUL
    19: "1.5 2.1 2.5",  # RELU
    21: "1.5 1.14 2.5",  # RELU6
    22: "1.5",  # RESHAPE
    23: "1.7 1.14 2.2 2.5",  # RESIZE_BILINEAR
    25: "1.5 1.14 2.3",  # SOFTMAX
    26: "1.5 1.14",  # SPACE_TO_DEPTH
    27: "1.5 1.14 2.2 2.3",  # SVDF
    28: "1.14 1.14 2.3",  # TANH
    34: "1.5 1.14 2.4 2.6",  # PAD
    36: "1.6 1.14 1.15 2.4 2.5",  # GATHER
    39: "1.6 1.14 1.15 2.3 2.4",  # TRANSPOSE
    40: "1.6 1.14 2.4",  # MEAN
    41: "1.6 1.14 2.3 2.4 2.4",  # SUB
    42: "1.6 2.3",  # DIV
    43: "1.6 2.5",  # SQUEEZE
    45: "1.6 1.14 2.1 2.2 2.5 2.6",  # STRIDED_SLICE
    49: "1.5 1.14 1.14 2.3",  # SPLIT
    53: "1.5 2.7 2.8 2.9",  # CAST
    56: "1.9 1.14 2.9",  # ARG_MAX
    67: "1.9 2.2 2.3",  # TRANSPOSE_CONV
    97: "1.13 1.14 2.3 2.4",  # RESIZE_NEAREST_NEIGHBOR
    102: "1.13 2.3",  # SPLIT_V
    114: "1.14 1.15 2.7",  # QUANTIZE
    117: "1.15",  # HARD_SWISH
    126: "2.3 2.3 2.4 2.5",  # BATCH_MATMUL
    129: "2.5",  # CALL_ONCE
    142: "2.6",  # VAR_HANDLE
    143: "2.6",  # READ_VARIABLE
    144: "2.6",  # ASSIGN_VARIABLE
    150: "2.9 2.9",  # GELU
    151: "2.9",  # DYNAMIC_UPDATE_SLICE
}
"""By the operator's number in the schema: the release for each of its versions, from version 1 on."""


def since(operators: Iterable[tuple[int, int]]) -> str:
    """The release that reads all of these (number, version); empty if none of them is known."""
    needed = []
    for number, version in operators:
        releases = _SINCE.get(number, "").split()
        if 0 < version <= len(releases):
            needed.append(releases[version - 1])
    return max(needed, key=release_of, default="")
