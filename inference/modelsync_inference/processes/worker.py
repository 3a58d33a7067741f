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
from dataclasses import dataclass
from typing import Any

from modelsync_inference.errors import InputError
from modelsync_inference.processes import wire
from modelsync_inference.processes.conversation import answer_in_parts
from modelsync_inference.runtimes.port import Generating, LoadedModel, Telling
from modelsync_protocol.errors import ModelsyncError

Load = Callable[[Mapping[str, Any]], LoadedModel]
"""Loads what an order (process_runtime.py) asks for."""


@dataclass(frozen=True, slots=True)
class Loader:
    """How one model is loaded in a process that is confined by `layers`; `settled` is called when all threads run."""

    load: Callable[[], LoadedModel]
    layers: list[str]
    settled: Callable[[], None]


Prepare = Callable[[Mapping[str, Any]], Loader]
"""Confines the process to what an order is about, on its only thread."""

_NICE = 10
"""Priority of the thread that loads: what serves comes first, and yet a busy machine does not starve it."""


def serve(channels: list[socket.socket], prepare: Prepare) -> None:
    """Load what the first message on the first channel orders, and answer until that channel is closed."""
    control, *others = channels
    loaded: list[LoadedModel] = []
    try:
        order, _ = wire.receive(control)
        try:
            # What a process gives up it gives up with every thread it starts from then on, so this is for the first.
            loader = prepare(order)
        except ModelsyncError as error:
            wire.send(control, {"refused": str(error)}, {})
            return
    except wire.Ended:
        return
    extra = {"layers": loader.layers}
    thread = threading.Thread(
        target=_load_and_probe, args=(control, order, lambda _: loader.load(), loaded, extra), daemon=True
    )
    thread.start()
    thread.join()
    if not loaded:
        return
    # The loader's thread is over before anything is served: one of low priority that still held the interpreter's
    # lock or the memory map's would hold up the others.
    for channel in others:
        threading.Thread(target=_answer, args=(channel, loaded[0]), daemon=True).start()
    loader.settled()
    with contextlib.suppress(wire.Ended):
        wire.send(control, {}, {})
        _answer(control, loaded[0])


def serve_on_one_thread(channels: list[socket.socket], load: Load) -> None:
    """As `serve`, for a model that wants to be loaded and run by one and the same thread: one run at a time."""
    control, serving = channels
    loaded: list[LoadedModel] = []
    try:
        order, _ = wire.receive(control)
    except wire.Ended:
        return
    _load_and_probe(control, order, load, loaded, {})
    if loaded:
        with contextlib.suppress(wire.Ended):
            wire.send(control, {}, {})
            _answer(serving, loaded[0])


def _load_and_probe(
    control: socket.socket,
    order: Mapping[str, Any],
    load: Load,
    loaded: list[LoadedModel],
    extra: Mapping[str, Any],
) -> None:
    """Load, and answer the probe's runs until the message that ends it; `loaded` stays empty if it comes to nothing.

    `extra`: what else the answer says.
    """
    try:
        if order["quiet"]:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)  # of this thread, on Linux
        try:
            model = load(order)
        except ModelsyncError as error:
            wire.send(control, {"refused": str(error)}, {})
            return
        except Exception as error:  # nobody would learn of it: the thread ends, and the process with exit code 0
            wire.send(control, {"refused": f"loading it failed ({type(error).__name__}: {error})."}, {})
            return
        inputs, outputs = (
            [[s.name, s.datatype, s.shape, s.quantization] for s in specs] for specs in (model.inputs, model.outputs)
        )
        facts = dict(model.facts) if isinstance(model, Telling) else {}
        about = {"platform": model.platform, "facts": facts, "generates": isinstance(model, Generating)}
        wire.send(control, {**about, "inputs": inputs, "outputs": outputs, **extra}, {})
        _answer(control, model)
        loaded.append(model)
    except wire.Ended:
        return


def _answer(channel: socket.socket, model: LoadedModel) -> None:
    """Answer runs until a message that is none; at the end of the connection the process has nothing left to do."""
    try:
        while True:
            request, feeds = wire.receive(channel)
            if "generate" in request and isinstance(model, Generating):
                answer_in_parts(channel, model, feeds)
                continue
            if "stop" in request:
                continue
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
