"""modelsync's hot-swapping model handle and Open Inference Protocol server."""

from modelsync_inference.errors import InputError, ModelRefusedError, NotServingError, RunError
from modelsync_inference.hot_model import HotModel, Settings
from modelsync_inference.runtime import LoadedModel, Runtime, TensorSpec
from modelsync_inference.serving import Lease, Prediction

__all__ = [
    "HotModel",
    "InputError",
    "Lease",
    "LoadedModel",
    "ModelRefusedError",
    "NotServingError",
    "Prediction",
    "RunError",
    "Runtime",
    "Settings",
    "TensorSpec",
]
