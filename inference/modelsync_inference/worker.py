"""A worker process: loads one model and answers runs on its channels. It knows no versions, pointers or requests.

A thread of low priority loads and probes by way of the first channel, so that requests don't feel it; then the others
serve, one thread each.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
from pathlib import Path

import numpy as np
import onnxruntime

from modelsync_inference import wire
from modelsync_inference.errors import InputError
from modelsync_inference.onnx_choice import Choice
from modelsync_inference.onnx_runtime import OnnxRuntime
from modelsync_inference.runtime import LoadedModel
from modelsync_protocol.errors import ModelsyncError

_NICE = 10
"""Priority of the thread that loads: what serves comes first, and yet a busy machine does not starve it."""

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
    session.run(None, {"x": np.ones((1, 1), dtype=np.float32)})


def serve(channels: list[socket.socket]) -> None:
    """Load what the first message on the first channel names, and answer until that channel is closed."""
    control, *others = channels
    loaded: list[LoadedModel] = []
    loader = threading.Thread(target=_load_and_probe, args=(control, loaded), daemon=True)
    loader.start()
    loader.join()
    if not loaded:
        return
    # The loader's thread is over before anything is served: one of low priority that still held the interpreter's
    # lock or the memory map's would hold up the others.
    for channel in others:
        threading.Thread(target=_answer, args=(channel, loaded[0]), daemon=True).start()
    with contextlib.suppress(wire.Ended):
        wire.send(control, {}, {})
        _answer(control, loaded[0])


def _load_and_probe(control: socket.socket, loaded: list[LoadedModel]) -> None:
    """Load, and answer the probe's runs until the message that ends it; `loaded` stays empty if it comes to nothing."""
    try:
        order, _ = wire.receive(control)
        if order["quiet"]:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        cache = order["cache"]
        choice = Choice(order["threads"], order["prepack"], order["arena"], Path(cache) if cache else None)
        try:
            model = OnnxRuntime(choice).load(Path(order["path"]))
        except ModelsyncError as error:
            wire.send(control, {"refused": str(error)}, {})
            return
        inputs, outputs = ([[s.name, s.datatype, s.shape] for s in specs] for specs in (model.inputs, model.outputs))
        wire.send(control, {"platform": model.platform, "inputs": inputs, "outputs": outputs}, {})
        _answer(control, model)
        loaded.append(model)
    except wire.Ended:
        return


def _answer(channel: socket.socket, model: LoadedModel) -> None:
    """Answer runs until a message that is none; at the end of the connection the process has nothing left to do."""
    try:
        while True:
            request, feeds = wire.receive(channel)
            if "outputs" not in request:
                return
            try:
                outputs = model.run(feeds, request["outputs"])
            except InputError as error:
                wire.send(channel, {"input": str(error)}, {})
            except ModelsyncError as error:
                wire.send(channel, {"broke": str(error)}, {})
            else:
                wire.send(channel, {}, outputs)
    except wire.Ended:
        os._exit(0)
