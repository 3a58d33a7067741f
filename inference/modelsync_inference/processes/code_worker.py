"""A worker process for models that are code: confines itself, says hello, and only then loads what it is told to.

It is a process of its own, not a fork of one that has seen other models or secrets, and it is started with an
environment of its own (sandbox.py). The argument is a JSON object: `channels` (descriptors), `kind`, `folder` (of the
artifact), `libraries` and `bounds`.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelsync_inference.confinement.confine import Bounds, UnconfinedError, confine
from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.processes import worker
from modelsync_inference.runtimes.model_kinds import Kind
from modelsync_inference.runtimes.port import LoadedModel, Stated, TensorSpec


def main() -> None:
    """Become a worker; the first line on the first channel says by what it is confined, or why it can't be."""
    orders = json.loads(sys.argv[1])
    channels = [socket.socket(fileno=descriptor) for descriptor in orders["channels"]]
    kind, folder, given = Kind(orders["kind"]), orders["folder"], orders["bounds"]
    os.chdir(folder)
    hello: dict[str, Any] = {}
    try:
        _import(kind, orders["libraries"])
        bounds = Bounds(
            tuple(map(Path, given["readable"])),
            tuple(map(Path, given["writable"])),
            given["memory"],
            given["scratch"],
            given["wrapped"],
            given["landlock"],
        )
        hello["layers"] = confine(bounds)
    except (UnconfinedError, ModelRefusedError) as error:
        hello["failed"] = str(error)
    channels[0].sendall(json.dumps(hello).encode() + b"\n")
    if "failed" not in hello:
        # Modules beside the model: not before it is confined, and last, so that none passes for one of the system's.
        sys.path.append(folder)
        if kind.single_threaded:
            worker.serve_on_one_thread(channels, _load)
        else:
            worker.serve(channels, lambda order: worker.Loader(lambda: _load(order), [], lambda: None))


def _load(order: Mapping[str, Any]) -> LoadedModel:
    stated = Stated(_specs(order["inputs"]), _specs(order["outputs"]), order["proven"])
    path = Path(order["path"])
    if Kind(order["kind"]) is Kind.SCRIPT:
        from modelsync_inference.runtimes import scoring_script

        return scoring_script.load(path)
    from modelsync_inference.runtimes import sklearn_model

    return sklearn_model.load(path, stated, joblib=order["joblib"])


def _import(kind: Kind, libraries: Sequence[str]) -> None:
    """Import what it takes before files are out of reach and memory is measured; ModelRefusedError."""
    if kind is Kind.SCRIPT:
        from modelsync_inference.runtimes import scoring_script  # noqa: F401
    else:
        from modelsync_inference.runtimes import sklearn_model  # noqa: F401
    for name in libraries:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ModelRefusedError(
                "it needs scikit-learn (1.4 or newer), which this device hasn't "
                f"(apt install python3-sklearn, or pip install 'modelsync-inference[sklearn]'): {error}."
            ) from error


def _specs(entries: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, kind, None if shape is None else tuple(shape)) for name, kind, shape in entries)


if __name__ == "__main__":
    main()
