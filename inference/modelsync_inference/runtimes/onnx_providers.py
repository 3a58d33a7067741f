"""Sessions of ONNX Runtime on the execution providers that are asked for, with what became of that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import onnxruntime

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.runtimes.providers import CPU, Provider, Providers, Taken

_LOG = logging.getLogger(__name__)
_registered: set[str] = set()


def open_session(model: bytes | str, options: Callable[[], Any], wanted: Providers) -> tuple[Any, Taken]:
    """A session of `model` on the first of `wanted` that works, the CPU after them all, and what became of each.

    `options` makes session options. A provider that is not in this build, has no device here or fails while the session
    is made is left out, and said. ModelRefusedError if the first is required and
    not in use; else what ONNX Runtime raises.
    """
    obstacles: dict[str, str] = {}
    usable = [provider for provider in wanted.asked if provider.name != CPU and _present(provider, obstacles)]
    available = sorted({*onnxruntime.get_available_providers(), *(plugin.name for plugin in usable if plugin.library)})
    while True:
        try:
            session = _session(model, options(), usable)
            break
        except Exception as error:
            if not usable:
                raise
            # Whose fault it is it does not say: the fastest is the most likely, and without it the others still serve.
            obstacles[usable.pop(0).name] = _one_line(error)
    in_use = session.get_providers()
    taken = Taken([provider.name for provider in wanted.asked], available, in_use, obstacles)
    if taken.fallback is not None:
        if wanted.required:
            raise ModelRefusedError(f"--require-provider: {taken.fallback}")
        _LOG.warning("%s It runs on %s.", taken.fallback, ", ".join(in_use))
    return session, taken


def _session(model: bytes | str, options: Any, usable: list[Provider]) -> Any:
    if any(provider.library for provider in usable):
        for provider in usable:
            if provider.library:
                devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.name]
                options.add_provider_for_devices(devices, dict(provider.options))
            else:
                options.add_provider(provider.name, dict(provider.options))
        return onnxruntime.InferenceSession(model, options, **_NO_FALLBACK)
    names = [provider.name for provider in usable]
    settings: list[dict[str, str]] = [dict(provider.options) for provider in usable]
    return onnxruntime.InferenceSession(
        model, options, providers=[*names, CPU], provider_options=[*settings, {}], **_NO_FALLBACK
    )


_NO_FALLBACK: dict[str, Any] = {"enable_fallback": 0}
"""ONNX Runtime's own fallback is silent and for some providers only; ours is neither."""


def _present(provider: Provider, obstacles: dict[str, str]) -> bool:
    """Whether it is to be had here; a plugin is registered, once in this process."""
    if not provider.library:
        if provider.name in onnxruntime.get_available_providers():
            return True
        obstacles[provider.name] = "this build of ONNX Runtime does not have it"
        return False
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        obstacles[provider.name] = f"ONNX Runtime {onnxruntime.__version__} takes no plugins; 1.22 does"
        return False
    try:
        if provider.library not in _registered:
            onnxruntime.register_execution_provider_library(provider.name, provider.library)
            _registered.add(provider.library)
    except Exception as error:
        obstacles[provider.name] = f"its library can't be loaded: {_one_line(error)}"
        return False
    if any(device.ep_name == provider.name for device in onnxruntime.get_ep_devices()):
        return True
    obstacles[provider.name] = "it finds no device that it knows"
    return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:400] or type(error).__name__
