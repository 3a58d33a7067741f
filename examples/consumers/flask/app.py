"""A Flask application that embeds HotModel: it follows the pointers by itself, so `activate` is not needed.

MODELSYNC_DATA=/var/lib/modelsync flask --app app run --port 5000
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from flask import Flask, request  # type: ignore[import-not-found]  # of the test's own environment

from modelsync_inference import HotModel, InputError, NotServingError

app = Flask(__name__)
model = HotModel(os.environ["MODELSYNC_DATA"], "anomaly")
model.start()


@app.post("/predict")  # type: ignore[untyped-decorator]
def predict() -> Any:
    """`{"X": [[…]]}` → `{"version", …}`, outputs by name. A request keeps the version that it began with."""
    inputs = {"X": np.asarray(request.get_json()["X"], np.float32)}
    try:
        answer = model.predict(inputs)
    except NotServingError as error:
        return {"error": str(error)}, 503
    except InputError as error:
        return {"error": str(error)}, 400
    return {"version": answer.version, **{name: value.tolist() for name, value in answer.outputs.items()}}
