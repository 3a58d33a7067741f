"""modelsync's hot-swapping model handle and Open Inference Protocol server."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsync_inference.errors import InputError, ModelRefusedError, NotServingError, RunError, WorkerDiedError
    from modelsync_inference.follow.follower import Outcome
    from modelsync_inference.follow.memory_policy import Policy
    from modelsync_inference.handle.async_model import AsyncHotModel, AsyncLease
    from modelsync_inference.handle.hot_model import HotModel
    from modelsync_inference.handle.settings import EngineRules, Settings
    from modelsync_inference.model.lease import Lease, Prediction
    from modelsync_inference.model.trial import Label, TrialRules
    from modelsync_inference.processes.isolation import Isolation
    from modelsync_inference.runtimes.onnx_sessions import OnnxBy
    from modelsync_inference.runtimes.port import LoadedModel, Runtime, TensorSpec
    from modelsync_inference.runtimes.providers import Provider, Providers

__all__ = [
    "AsyncHotModel",
    "AsyncLease",
    "EngineRules",
    "HotModel",
    "InputError",
    "Isolation",
    "Label",
    "Lease",
    "LoadedModel",
    "ModelRefusedError",
    "NotServingError",
    "OnnxBy",
    "Outcome",
    "Policy",
    "Prediction",
    "Provider",
    "Providers",
    "RunError",
    "Runtime",
    "Settings",
    "TensorSpec",
    "TrialRules",
    "WorkerDiedError",
]

# Names are imported when they are asked for: a process that workers are forked from must not hold an HTTP client.
_MODULES = {
    "handle.async_model": ("AsyncHotModel", "AsyncLease"),
    "errors": ("InputError", "ModelRefusedError", "NotServingError", "RunError", "WorkerDiedError"),
    "follow.follower": ("Outcome",),
    "handle.hot_model": ("HotModel",),
    "processes.isolation": ("Isolation",),
    "follow.memory_policy": ("Policy",),
    "runtimes.port": ("LoadedModel", "Runtime", "TensorSpec"),
    "model.lease": ("Lease", "Prediction"),
    "handle.settings": ("EngineRules", "Settings"),
    "runtimes.onnx_sessions": ("OnnxBy",),
    "runtimes.providers": ("Provider", "Providers"),
    "model.trial": ("Label", "TrialRules"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
