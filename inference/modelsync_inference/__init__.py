"""modelsync's hot-swapping model handle and Open Inference Protocol server."""

from modelsync_inference.errors import InputError, ModelRefusedError, NotServingError, RunError, WorkerDiedError
from modelsync_inference.follower import Outcome
from modelsync_inference.hot_model import HotModel
from modelsync_inference.memory_policy import Policy
from modelsync_inference.runtime import LoadedModel, Runtime, TensorSpec
from modelsync_inference.serving import Lease, Prediction
from modelsync_inference.settings import Isolation, Settings

__all__ = [
    "HotModel",
    "InputError",
    "Isolation",
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
    "WorkerDiedError",
]
