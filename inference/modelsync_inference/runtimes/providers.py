"""ONNX Runtime's execution providers: which are asked for, what became of that. ONNX Runtime is not imported here.

Source: https://onnxruntime.ai/docs/execution-providers/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol import near_names
from modelsync_protocol.errors import UsageError

_ENDING = "ExecutionProvider"
CPU = "CPUExecutionProvider"
_NAMES = {
    name.lower(): f"{name}{_ENDING}"
    for name in (
        "CPU", "CUDA", "Tensorrt", "NvTensorRTRTX", "ROCM", "MIGraphX", "OpenVINO", "Xnnpack", "QNN", "CoreML", "Dml",
        "ACL", "ArmNN", "Nnapi", "SNPE", "VitisAI", "CANN", "Azure", "WebGpu", "WebNN", "Dnnl", "Rknpu", "VSINPU",
    )
}  # fmt: skip

_NVIDIA = ("nvidia*", "nvhost-*", "nvmap", "nvgpu*/*/*", "nvidia-caps/*", "nvsciipc")
_DEVICES = {
    "CUDAExecutionProvider": _NVIDIA,
    "TensorrtExecutionProvider": _NVIDIA,
    "NvTensorRTRTXExecutionProvider": _NVIDIA,
    "QNNExecutionProvider": ("fastrpc-*", "adsprpc-*", "dma_heap/system", "ion"),
    "OpenVINOExecutionProvider": ("dri/renderD*", "accel/*"),
    "MIGraphXExecutionProvider": ("kfd", "dri/renderD*"),
    "ROCMExecutionProvider": ("kfd", "dri/renderD*"),
}
"""Nodes below /dev that a provider's driver opens for writing, as its vendor's container runtime passes them on."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider by ONNX Runtime's own name, its options, and the library that brings it (a plugin), if any."""

    name: str
    options: Mapping[str, str]
    library: str = ""


@dataclass(frozen=True, slots=True)
class Providers:
    """Those that are asked for, in order; the CPU comes after them always.

    `required`: refuse a version for which the first of them is not in use.
    """

    asked: tuple[Provider, ...] = ()
    required: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON, for a worker."""
        asked = [[provider.name, dict(provider.options), provider.library] for provider in self.asked]
        return {"asked": asked, "required": self.required}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Providers:
        """Back from `document`."""
        return cls(tuple(Provider(*entry) for entry in document["asked"]), document["required"])

    def devices(self, folder: Path = Path("/dev")) -> tuple[Path, ...]:
        """The device nodes of this machine that they have to open; none where the hardware is not there."""
        patterns = dict.fromkeys(pattern for asked in self.asked for pattern in _DEVICES.get(asked.name, ()))
        return tuple(path for pattern in patterns for path in sorted(folder.glob(pattern)) if not path.is_dir())

    def libraries(self) -> tuple[Path, ...]:
        """Folders of the plugins."""
        return tuple(dict.fromkeys(Path(asked.library).parent for asked in self.asked if asked.library))


def full_name(text: str) -> str:
    """ONNX Runtime's name of the provider that people call `text`; UsageError for one that nobody knows."""
    if text.endswith(_ENDING):
        return text
    known = _NAMES.get(text.lower())
    if known is None:
        raise UsageError(
            f"{text!r:.60} is no execution provider of ONNX Runtime{near_names.hint(text.lower(), sorted(_NAMES))}. "
            f"Use a short name ({', '.join(sorted(_NAMES))}) or a whole one that ends with {_ENDING}."
        )
    return known


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of it: names as ONNX Runtime has them, and why those before the first in use are not."""

    asked: Sequence[str]
    available: Sequence[str]
    in_use: Sequence[str]
    obstacles: Mapping[str, str]

    @property
    def fallback(self) -> str | None:
        """One sentence on the first provider if it is not in use; None: it is, or none is asked for."""
        if not self.asked or self.asked[0] in self.in_use:
            return None
        first = self.asked[0]
        return f"{first} is not in use ({self.obstacles.get(first, 'ONNX Runtime left it out')})."

    def document(self) -> dict[str, Any]:
        """As JSON, for status and metrics."""
        return {
            "asked": list(self.asked),
            "available": list(self.available),
            "in_use": list(self.in_use),
            "fallback": self.fallback,
        }
