"""modelsync's hot-swapping model handle and Open Inference Protocol server."""

from modelsync_inference.async_model import AsyncHotModel, AsyncLease
from modelsync_inference.errors import InputError, ModelRefusedError, NotServingError, RunError, WorkerDiedError
from modelsync_inference.follower import Outcome
from modelsync_inference.hot_model import HotModel
from modelsync_inference.memory_policy import Policy
from modelsync_inference.runtime import LoadedModel, Runtime, TensorSpec
from modelsync_inference.serving import Lease, Prediction
from modelsync_inference.settings import Isolation, Settings
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
