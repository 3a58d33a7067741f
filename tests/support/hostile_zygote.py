"""A zygote whose workers are taken over: their model carries out what it is asked to, inside the real confinement.

`python -m tests.support.hostile_zygote DESCRIPTOR`. VARIABLE says which layers there are: `all`, `landlock` or
 `seccomp` as on machines that lack the other, and `no`, the control, without any confinement.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelsync_inference.confinement import inheritance, landlock, reader, syscall_filter
from modelsync_inference.processes import onnx_worker, worker, zygote
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.port import TensorSpec
from tests.support.hostile_code import ATTEMPTS

VARIABLE = "ORT_TEST_LAYERS"
SECRET = "the-secret-of-the-parent"


WORLD: dict[str, Any] = {}
exec(ATTEMPTS, WORLD)  # before anything is given up: what it imports may lie in files


class TakenOver:
    """A model whose input `attempts` is JSON, a list of [attempt, arguments…]; the answer is what came of each."""

    platform = "hostile"
    inputs = (TensorSpec("attempts", "BYTES", (1,)),)
    outputs = (TensorSpec("answers", "BYTES", (1,)),)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel."""
        wanted = json.loads(inputs["attempts"].ravel()[0])
        answers = [WORLD["attempt"](*one) for one in wanted]
        return {"answers": np.array([json.dumps(answers).encode()], dtype=np.object_)}

    def close(self) -> None:
        """See LoadedModel."""


def main() -> None:
    """Be a zygote."""
    layers = os.environ[VARIABLE]
    os.environ["MODELSYNC_TEST_SECRET"] = SECRET  # as a supervisor has it that serves as an IoT Edge module
    os.set_inheritable(os.open(__file__, os.O_RDONLY), True)  # a descriptor that workers must not keep
    if layers == "no":
        inheritance.keep_descriptors = lambda kept: None
        inheritance.forget_environment = lambda: None
    if layers in ("no", "seccomp"):
        landlock.version = lambda: 0
    if layers in ("no", "landlock"):
        syscall_filter.library = lambda: None
    if layers == "no":
        reader.Reader.close = lambda *_, **__: []  # type: ignore[method-assign]  # the control
    whole = onnx_worker.prepare

    def prepare(order: Mapping[str, Any]) -> worker.Loader:
        real = whole(order)
        if Path(order["path"]).stem != "taken-over":
            return real
        return worker.Loader(TakenOver, real.layers, real.settled)

    onnx_worker.prepare = prepare
    zygote.main()


if __name__ == "__main__":
    main()
