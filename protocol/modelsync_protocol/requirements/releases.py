"""What releases of runtimes can read: facts of the field, as tables. No I/O here.

ONNX Runtime: measured by `python -m tests.runtimes.opsets`, which loads small models into each release: the newest
opset of ai.onnx and of ai.onnx.ml, and the newest IR version, that it takes. They all read opset 7 and what followed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Release = tuple[int, ...]
"""A version's leading numbers, such as (1, 23)."""


class Reads(NamedTuple):
    """The newest opsets and IR version that a release of ONNX Runtime takes."""

    opset: int
    ml: int
    ir: int


ONNX_RUNTIME: tuple[tuple[Release, Reads], ...] = (
    ((1, 15), Reads(19, 3, 9)),
    ((1, 17), Reads(20, 4, 9)),
    ((1, 18), Reads(21, 5, 10)),
    ((1, 21), Reads(22, 5, 10)),
    ((1, 23), Reads(23, 5, 11)),
    ((1, 24), Reads(25, 5, 13)),
    ((1, 25), Reads(26, 5, 13)),
    ((1, 32), Reads(28, 5, 14)),
)
"""From each release on, until the next one that is listed. Older ones read no more than the first."""

ONNX_RUNTIME_KNOWN: Release = (1, 32)
"""The newest release that was measured."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "onnxruntime": (
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-openvino",
        "onnxruntime-qnn",
        "onnxruntime-rocm",
        "onnxruntime-training",
    ),
    "tflite": (
        "tflite-runtime",
        "ai-edge-litert",
        "tensorflow",
        "tensorflow-cpu",
        "tensorflow-aarch64",
        "tflite-micro",
    ),
    "openvino": ("openvino", "openvino-runtime"),
    "llama.cpp": ("llama-cpp-python", "xllamacpp"),
    "scikit-learn": ("scikit-learn",),
    "torch": ("torch",),
    "tensorrt": ("tensorrt",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "lightgbm": ("lightgbm",),
}
"""The Python distributions that a runtime comes in, normalised (PEP 503)."""

REPORTED = tuple(dict.fromkeys(name for names in PACKAGES.values() for name in names))
"""Distributions that a device's short report names where they are installed; the others it leaves out."""

ONNX_READERS = ("onnxruntime", "openvino", "tensorrt")
"""Runtimes that read ONNX files."""

LITERT_IS = (2, 17)
"""ai-edge-litert began (1.0) from TensorFlow 2.17."""

OPENVINO_IR = {10: (2020, 1), 11: (2022, 1)}
"""IR version → the release of OpenVINO that reads it first."""

TFLITE_SCHEMA_KNOWN, GGUF_KNOWN = 3, 3
"""The newest that all runtimes of PACKAGES read."""


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def release_of(version: str) -> Release:
    """The leading numbers of a version; empty if there are none."""
    found = re.match(r"v?(\d{1,9}(?:\.\d{1,9}){0,3})", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def onnx_runtime_reads(release: Release) -> Reads | None:
    """What that release of ONNX Runtime takes; None for one older than the table."""
    return next((reads for since, reads in reversed(ONNX_RUNTIME) if release[:2] >= since), None)


def onnx_runtime_since(what: str, number: int) -> Release | None:
    """The first release that takes `number` of `what` (a field of Reads); None: no known one does."""
    return next((since for since, reads in ONNX_RUNTIME if getattr(reads, what) >= number), None)
