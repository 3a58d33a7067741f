"""The model port on Azure ML scoring scripts: `init()` once, then `run(raw_data)` with each request's body as text.

The contract is that of azureml-inference-server-http 1.5: what `run` returns becomes JSON by `json.dumps` (a string
gets quotes, None becomes {}). Only ever imported in a confined worker.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from modelsync_inference.errors import InputError, ModelRefusedError, RunError
from modelsync_inference.runtimes.datatypes import BYTES, Array
from modelsync_inference.runtimes.port import SCRIPT_PLATFORM, LoadedModel, TensorSpec
from modelsync_inference.runtimes.scoring_tensors import RAW_DATA, RESULT

_MODULE = "entry_module"  # as in Azure's server
_RAW_HTTP = ("azureml_inference_server_http.api.aml_request", "azureml.contrib.services.aml_request")
_SCHEMA = "inference_schema.schema_util"


class ScoringScript:
    """A script whose `init` has run. raw_data BYTES [1] to result BYTES [1], which is the JSON text of the answer."""

    platform = SCRIPT_PLATFORM
    inputs = (TensorSpec(RAW_DATA, BYTES, (1,)),)
    outputs = (TensorSpec(RESULT, BYTES, (1,)),)

    def __init__(self, run: Callable[[str], Any]) -> None:
        self._run = run

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel. If `run` fails on a body that is no JSON, the request is to blame."""
        item = inputs[RAW_DATA].ravel()[0]
        try:
            raw_data = item.decode() if isinstance(item, bytes) else str(item)
        except UnicodeDecodeError as error:
            raise InputError(f"input {RAW_DATA!r} is not UTF-8: {error}.") from error
        try:
            answer = self._run(raw_data)
        except BaseException as error:
            traceback.print_exc()
            if not _is_json(raw_data):
                raise InputError(f"the request is not JSON, and run() raised {_told(error)}.") from error
            raise RunError(f"run() raised {_told(error)}.") from error
        try:
            text = json.dumps({} if answer is None else answer)
        except (TypeError, ValueError, RecursionError) as error:
            raise RunError(f"run() returned what JSON can't hold: {_told(error)}.") from error
        result = np.empty(1, dtype=np.object_)
        result[0] = text
        return dict.fromkeys(outputs, result)

    def close(self) -> None:
        """The worker ends; scripts have no function for that."""


def load(path: Path) -> LoadedModel:
    """Import the script at `path`, whose folder is its package, and call `init`; ModelRefusedError."""
    folder = str(path.parent)  # both `import features` and `from . import features` find what lies beside it
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(_MODULE, path, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ModelRefusedError(f"{path.name} can't be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        traceback.print_exc()
        raise ModelRefusedError(f"{path.name} can't be imported: {_told(error)}.") from error
    run = _checked(path.name, module)
    try:
        module.init()
    except BaseException as error:
        traceback.print_exc()
        raise ModelRefusedError(f"init() of {path.name} raised {_told(error)}.") from error
    return ScoringScript(run)


def _checked(name: str, module: ModuleType) -> Callable[[str], Any]:
    for function in ("init", "run"):
        if not callable(getattr(module, function, None)):
            raise ModelRefusedError(f"{name} has no function {function}().")
    run: Callable[..., Any] = module.run
    schema = sys.modules.get(_SCHEMA)
    if any(getattr(sys.modules.get(raw), "_rawHttpRequested", False) for raw in _RAW_HTTP):
        raise ModelRefusedError(f"run() of {name} is decorated with @rawhttp; only run(raw_data) is supported.")
    if schema is not None and schema.is_schema_decorated(run):
        raise ModelRefusedError(f"run() of {name} is decorated with @input_schema; only run(raw_data) is supported.")
    if len(inspect.signature(run).parameters) != 1:
        raise ModelRefusedError(f"run() of {name} must have one parameter, raw_data.")
    return run


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.300}".rstrip(":. ")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
