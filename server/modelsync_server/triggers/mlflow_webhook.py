"""MLflow's webhooks: an event about the watched alias is a hint to look; nothing but that is taken from it.

Signed as MLflow 3 does: `X-MLflow-Signature: v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`.
Source: https://mlflow.org/docs/latest/ml/webhooks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable

from aiohttp import web

from modelsync_protocol.errors import UsageError

PATH = "/api/mlflow"
TOLERANCE_SECONDS = 300
_LEAST_SECRET = 16
_ENTITY, _ACTIONS = "model_version_alias", ("created", "deleted")


def signature(secret: bytes, delivery: str, timestamp: str, body: bytes) -> str:
    """What MLflow puts into X-MLflow-Signature."""
    signed = hmac.new(secret, f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed.digest()).decode()


class MlflowWebhook:
    """Calls `hint` when MLflow says that `alias` of the registered model `name` was set."""

    def __init__(
        self, secret: str, name: str, alias: str, hint: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        """UsageError for a secret that can be guessed."""
        if len(secret) < _LEAST_SECRET:
            raise UsageError(
                f"the webhook's secret is too short: use at least {_LEAST_SECRET} characters, "
                "such as `openssl rand -hex 24`."
            )
        self._secret, self._watched, self._hint, self._clock = secret.encode(), (name, alias), hint, clock

    def application(self) -> web.Application:
        """The HTTP side: POST /api/mlflow, and GET /healthz."""
        application = web.Application(client_max_size=1 << 20)
        application.router.add_post(PATH, self._handle)
        application.router.add_get("/healthz", _healthy)
        return application

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        delivery, timestamp, given = (
            request.headers.get(f"X-MLflow-{name}", "") for name in ("Delivery-Id", "Timestamp", "Signature")
        )
        due = signature(self._secret, delivery, timestamp, body)
        if not hmac.compare_digest(given.encode(errors="replace"), due.encode(errors="replace")):
            return web.json_response({"error": "the signature is missing or wrong."}, status=401)
        if (
            not timestamp.isascii()
            or not timestamp.isdigit()
            or abs(self._clock() - int(timestamp)) > TOLERANCE_SECONDS
        ):
            return web.json_response({"error": "the delivery is too old, or a clock is wrong."}, status=401)
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            event = None
        match event:
            case {"entity": str(entity), "action": str(action), "data": dict(data)}:
                if entity == _ENTITY and action in _ACTIONS and (data.get("name"), data.get("alias")) == self._watched:
                    self._hint()
                return web.json_response({})
        return web.json_response({"error": "the event lacks entity, action or data."}, status=400)


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({})
