"""A worker process: loads one model and answers runs on its channels. It knows no versions, pointers or requests.

A thread of low priority loads and probes by way of the first channel, so that requests don't feel it; then the others
serve, one thread each.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from modelsync_inference.errors import InputError
from modelsync_inference.processes import wire
from modelsync_inference.runtimes.port import LoadedModel
from modelsync_protocol.errors import ModelsyncError

Load = Callable[[Mapping[str, Any]], LoadedModel]
"""Loads what an order (process_runtime.py) asks for."""

_NICE = 10
"""Priority of the thread that loads: what serves comes first, and yet a busy machine does not starve it."""


def serve(channels: list[socket.socket], load: Load) -> None:
    """Load what the first message on the first channel orders, and answer until that channel is closed."""
    control, *others = channels
    loaded: list[LoadedModel] = []
    loader = threading.Thread(target=_load_and_probe, args=(control, load, loaded), daemon=True)
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


def serve_on_one_thread(channels: list[socket.socket], load: Load) -> None:
    """As `serve`, for a model that wants to be loaded and run by one and the same thread: one run at a time."""
    control, serving = channels
    loaded: list[LoadedModel] = []
    _load_and_probe(control, load, loaded)
    if loaded:
        with contextlib.suppress(wire.Ended):
            wire.send(control, {}, {})
            _answer(serving, loaded[0])


def _load_and_probe(control: socket.socket, load: Load, loaded: list[LoadedModel]) -> None:
    """Load, and answer the probe's runs until the message that ends it; `loaded` stays empty if it comes to nothing."""
    try:
        order, _ = wire.receive(control)
        if order["quiet"]:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)  # of this thread, on Linux
        try:
            model = load(order)
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
