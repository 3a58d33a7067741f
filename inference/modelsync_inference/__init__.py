"""modelsync's hot-swapping model handle and Open Inference Protocol server."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsync_inference.async_model import AsyncHotModel, AsyncLease
    from modelsync_inference.errors import InputError, ModelRefusedError, NotServingError, RunError, WorkerDiedError
    from modelsync_inference.follower import Outcome
    from modelsync_inference.hot_model import HotModel
    from modelsync_inference.isolation import Isolation
    from modelsync_inference.lease import Lease, Prediction
    from modelsync_inference.memory_policy import Policy
    from modelsync_inference.runtime import LoadedModel, Runtime, TensorSpec
    from modelsync_inference.settings import Settings
    from modelsync_inference.trial import Label, TrialRules

__all__ = [
    "AsyncHotModel",
    "AsyncLease",
    "HotModel",
    "InputError",
    "Isolation",
    "Label",
    "Lease",
    "LoadedModel",
    "ModelRefusedError",
    "NotServingError",
    "Outcome",
    "Policy",
    "Prediction",
    "RunError",
    "Runtime",
    "Settings",
    "TensorSpec",
    "TrialRules",
    "WorkerDiedError",
]

# Names are imported when they are asked for: a process that workers are forked from must not hold an HTTP client.
_MODULES = {
    "async_model": ("AsyncHotModel", "AsyncLease"),
    "errors": ("InputError", "ModelRefusedError", "NotServingError", "RunError", "WorkerDiedError"),
    "follower": ("Outcome",),
    "hot_model": ("HotModel",),
    "isolation": ("Isolation",),
    "memory_policy": ("Policy",),
    "runtime": ("LoadedModel", "Runtime", "TensorSpec"),
    "lease": ("Lease", "Prediction"),
    "settings": ("Settings",),
    "trial": ("Label", "TrialRules"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
