"""What a worker process for models that are data needs: ONNX Runtime set up before the fork, confinement, the load.

The file is parsed by foreign code (ONNX Runtime, or what else runs it), so the process gives up everything else before.
"""

from __future__ import annotations

import base64
import functools
import os
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import modelsync_inference
import modelsync_protocol
from modelsync_inference.confinement import reader
from modelsync_inference.confinement.reader import NO_SECCOMP, Available, Reader
from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.processes.worker import Loader
from modelsync_inference.runtimes.engines import (
    engine_for,
    keeps_its_threads,
    loads_from_memory,
    wants_session,
    wants_to_listen,
)
from modelsync_inference.runtimes.mapped_weights import mapped
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_inference.runtimes.onnx_sessions import Choice, OnnxBy
from modelsync_inference.runtimes.port import Stated, TensorSpec
from modelsync_inference.runtimes.providers import Providers

_TINY = (
    b"CAgSADpOChEKAXgKAXgSAWEiBk1hdE11bAoMCgFhEgF5IgRSZWx1EgF3WhMKAXgSDgoMCAESCAoCCAEK"
    b"AggBYhMKAXkSDgoMCAESCAoCCAEKAggBQgQKABAR"
)
"""An ONNX model of opset 17, y = Relu(MatMul(x, x)) with x FP32 [1, 1], in base64."""


def warm_up() -> None:
    """Have ONNX Runtime set up, in the process that workers are forked from, what every first session sets up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # none but this one: a fork would lose them
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(base64.b64decode(_TINY), options, providers=["CPUExecutionProvider"])
    libraries()
    session.run(None, {"x": np.ones((1, 1), dtype=np.float32)})


def prepare(order: Mapping[str, Any]) -> Loader:
    """Confine this process to what `order` (process_runtime.py) is about; its load comes next. ModelRefusedError.

    First the weights are laid out, by code of ours, where that is wanted and Landlock keeps ONNX Runtime from other
    files later. Without Landlock the model is read into memory, and nothing is opened afterwards.
    """
    path, choice = Path(order["path"]).resolve(), _choice(order)
    available = reader.available()
    if order["require"] and available.lacking:
        raise ModelRefusedError(f"its process can't be confined as this server demands: {' '.join(available.lacking)}")
    if not wants_session(path, choice):
        return _prepare_engine(order, path, choice, available)
    bounds = _bounds(order, choice.providers)
    light, data = None, None
    if choice.cache is not None and (available.landlock or not available.seccomp) and _made(choice.cache):
        bounds.lay_out(choice.cache)
        light = mapped(path, choice.cache)
    elif available.seccomp and not available.landlock and not choice.providers.asked:
        data = _whole(path)
    layers = bounds.close(() if light is None else (light.parent,), in_memory=data is not None)
    return Loader(lambda: OnnxRuntime(choice).load_laid_out(path, light, data), layers, reader.no_more_threads)


def _made(cache: Path) -> bool:
    """Whether there is a folder to lay weights out in; without one (a read-only mount, a full disk) none are."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return cache.is_dir()
    return True


def _prepare_engine(order: Mapping[str, Any], path: Path, choice: Choice, available: Available) -> Loader:
    """As `prepare`, for what is imported only now: before files are out of reach and memory is measured."""
    in_memory = available.seccomp and not available.landlock and loads_from_memory(path)
    listens = wants_to_listen(path)
    if listens and not available.seccomp:
        raise ModelRefusedError(f"llama.cpp's library opens a port unless its process is kept from that: {NO_SECCOMP}")
    engine = engine_for(path, choice)
    bounds = replace(_bounds(order, Providers()), listens_to_nobody=listens)
    data = _whole(path) if in_memory else None
    layers = bounds.close((), in_memory=in_memory)
    stated = Stated(tuple(TensorSpec(name, kind, _shape(shape)) for name, kind, shape in order["inputs"]))
    settled = reader.no_more_threads if keeps_its_threads(path) else lambda: None
    return Loader(lambda: engine.load_from(path, data, stated), layers, settled)


def _choice(order: Mapping[str, Any]) -> Choice:
    cache, providers, onnx_by = order["cache"], Providers.of(order["providers"]), OnnxBy(order["onnx_by"])
    return Choice(
        order["threads"],
        order["prepack"],
        order["arena"],
        Path(cache) if cache else None,
        order["runs"],
        providers,
        onnx_by,
        order["context"],
    )


def _bounds(order: Mapping[str, Any], providers: Providers) -> Reader:
    readable = (*libraries(), *providers.libraries())
    folder = Path(order["folder"]).resolve()
    return Reader(readable, folder, order["memory"], reader.mapped_bytes(), providers.devices())


def _shape(shape: list[int] | None) -> tuple[int, ...] | None:
    return None if shape is None else tuple(shape)


@functools.cache
def libraries() -> tuple[Path, ...]:
    """Folders of the code that may still have to be read, and what says how many processors there are.

    Asked once before the fork: it takes milliseconds.
    """
    modules = (np, onnxruntime, modelsync_inference, modelsync_protocol)
    packages = [Path(folder).absolute() for module in modules for folder in module.__path__]
    # What numpy's wheel needs lies beside it; a folder of sources is nobody's library.
    sites = [package.parent for package in packages if package.parent.name in ("site-packages", "dist-packages")]
    standard = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    linked = [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
    return tuple(dict.fromkeys((*_SYSTEM, *standard, *sites, *packages, *linked)))


_SYSTEM = tuple(
    Path(name)
    for name in (
        "/lib",
        "/lib64",
        "/usr/lib",
        "/etc/ld.so.cache",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/sys/devices/system/cpu",
    )
)


def _whole(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise ModelRefusedError(f"{path.name} can't be read: {error}.") from error
