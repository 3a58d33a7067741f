"""A worker process: loads one model and answers runs on its channels. It knows no versions, pointers or requests.

The first channel's thread loads and probes at the lowest priority, so that requests don't feel it; the others serve.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from modelsync_inference import wire
from modelsync_inference.errors import InputError
from modelsync_inference.onnx_choice import Choice
from modelsync_inference.onnx_runtime import OnnxRuntime
from modelsync_inference.runtime import LoadedModel
from modelsync_protocol.errors import ModelsyncError


def serve(channels: list[socket.socket]) -> None:
    """Load what the first message on the first channel names, and answer until that channel is closed."""
    control, *others = channels
    first = threading.Thread(target=_serve_first, args=(control, others), daemon=True)
    first.start()
    first.join()


def _serve_first(control: socket.socket, others: list[socket.socket]) -> None:
    try:
        order, _ = wire.receive(control)
        if order["quiet"]:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        cache = order["cache"]
        choice = Choice(order["threads"], order["prepack"], order["arena"], Path(cache) if cache else None)
        try:
            model = OnnxRuntime(choice).load(Path(order["path"]))
        except ModelsyncError as error:
            wire.send(control, {"refused": str(error)}, {})
            return
        inputs, outputs = ([[s.name, s.datatype, s.shape] for s in specs] for specs in (model.inputs, model.outputs))
        wire.send(control, {"platform": model.platform, "inputs": inputs, "outputs": outputs}, {})
        for channel in others:
            threading.Thread(target=_answer, args=(channel, model), daemon=True).start()
        _answer(control, model)
    except wire.Ended:
        return


def _answer(channel: socket.socket, model: LoadedModel) -> None:
    try:
        while True:
            request, feeds = wire.receive(channel)
            try:
                outputs = model.run(feeds, request["outputs"])
            except InputError as error:
                wire.send(channel, {"input": str(error)}, {})
            except ModelsyncError as error:
                wire.send(channel, {"broke": str(error)}, {})
            else:
                wire.send(channel, {}, outputs)
    except wire.Ended:
        return
