"""`/score`, the route that clients of Azure ML endpoints call: the body goes to `run(raw_data)`, its result comes back.

Statuses, bodies and headers are those of azureml-inference-server-http 1.5; beside them stands the version that
answered. Of several scripts, the header `azureml-model-deployment` names one, as at Azure's own endpoints.
"""

from __future__ import annotations

import json

import numpy as np
from aiohttp import web

from modelsync_inference.errors import InputError, NotServingError, UnknownError
from modelsync_inference.handle.hot_model import HotModel
from modelsync_inference.handle.repository import Repository
from modelsync_inference.model.lease import Prediction
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.port import SCRIPT_PLATFORM
from modelsync_inference.runtimes.scoring_tensors import RAW_DATA, RESULT
from modelsync_protocol.errors import ModelsyncError

DEPLOYMENT = "azureml-model-deployment"
VERSION = "modelsync-model-version"
FAILED = "x-ms-run-function-failed"
_IDS = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id")


def model_of(models: Repository, request: web.Request) -> HotModel:
    """The model that `request` is for; UnknownError, InputError, or NotServingError if none serves yet."""
    wanted = request.headers.get(DEPLOYMENT)
    if wanted is not None:
        return models.get(wanted)
    scripts = [model for model in models.models if model.platform == SCRIPT_PLATFORM]
    if len(scripts) > 1:
        known = ", ".join(model.name for model in scripts)
        raise InputError(f"there are several scoring scripts ({known}); name one in the header {DEPLOYMENT}.")
    if scripts:
        return scripts[0]
    if any(model.platform is None for model in models.models):
        raise NotServingError("no scoring script serves yet; try again later.")
    raise UnknownError("none of the models that are served is a scoring script.")


def score(model: HotModel, raw_data: bytes) -> Prediction:
    """Run `model` on one body; raises what HotModel.predict raises, UnknownError if it is no scoring script."""
    try:
        raw_data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"Input cannot be decoded as UTF-8: {error}") from error
    tensor: Array = np.empty(1, dtype=np.object_)
    tensor[0] = raw_data
    with model.lease() as lease:
        if lease.platform != SCRIPT_PLATFORM:
            raise UnknownError(f"the model {model.name!r} is no scoring script.")
        return lease.run({RAW_DATA: tensor}, [RESULT])


def raw_data_of(request: web.Request, body: bytes) -> bytes:
    """What `run` gets: the body of a POST, the parameters of a GET as JSON."""
    if request.method == "POST":
        return body
    values = {key: [_value(text) for text in request.query.getall(key)] for key in request.query}
    return json.dumps({key: found[0] if len(found) == 1 else found for key, found in values.items()}).encode()


def answer(request: web.Request, prediction: Prediction) -> web.Response:
    """The result of `run` as Azure's server sends it."""
    (result,) = prediction.outputs[RESULT].ravel().tolist()
    headers = {
        FAILED: "False",
        "x-ms-run-fn-exec-ms": f"{prediction.seconds * 1000:.3f}",
        VERSION: str(prediction.version),
        **_echoed(request),
    }
    body = result if isinstance(result, bytes) else str(result).encode()
    return web.Response(body=body, content_type="application/json", headers=headers)


def failed(request: web.Request, status: int, error: ModelsyncError) -> web.Response:
    """An error as Azure's server sends it; 500 is the script's own."""
    headers = {FAILED: str(status == 500), **_echoed(request)}
    if isinstance(error, NotServingError):
        headers["Retry-After"] = "1"
    return web.json_response({"message": str(error)}, status=status, headers=headers)


def _echoed(request: web.Request) -> dict[str, str]:
    """The ids of a request, which its answer carries too."""
    return {name: request.headers[name] for name in _IDS if name in request.headers}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
