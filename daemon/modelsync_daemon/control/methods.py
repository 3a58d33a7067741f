"""The direct methods: what a hub may ask of a running daemon, and how its payloads are read. No transport here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelsync_daemon.control.plane import MethodAnswer
from modelsync_daemon.reconcile import operations
from modelsync_daemon.transfer import origin_secret
from modelsync_protocol.errors import ModelsyncError, UnreachableError, UsageError

if TYPE_CHECKING:
    from modelsync_daemon.resident import Resident

_OF_MODEL = ("rollback", "hold", "release")
METHODS = ("status", "sync", *_OF_MODEL, "apply", "secret")


async def answer(resident: Resident, name: str, payload: Any) -> MethodAnswer:
    """Do what is asked; never raises. 400: wrong input, 404: no such method, 409: refused here, 503: not now."""
    try:
        return await _answer(resident, name, payload)
    except UsageError as error:
        return MethodAnswer(400, {"error": str(error)})
    except UnreachableError as error:
        return MethodAnswer(503, {"error": str(error)})
    except ModelsyncError as error:
        return MethodAnswer(409, {"error": str(error)})


async def _answer(resident: Resident, name: str, payload: Any) -> MethodAnswer:
    if name == "status":
        return MethodAnswer(200, resident.status())
    if name == "sync":
        resident.sync()
        return MethodAnswer(202, {})
    if name == "apply":
        return MethodAnswer(200, await resident.apply(payload))
    if name == "secret":
        if not isinstance(payload, Mapping) or not isinstance(payload.get("sas", 0), str | None):
            raise UsageError('the payload is {"sas": "…"}, the query of a read-only SAS, or null to forget it.')
        expires = origin_secret.keep(resident.data.root, payload["sas"])
        resident.access_renewed()
        return MethodAnswer(200, {"expires": expires})
    if name not in _OF_MODEL:
        return MethodAnswer(404, {"error": f"the methods are {', '.join(METHODS[:-1])} and {METHODS[-1]}."})
    model = payload.get("model") if isinstance(payload, Mapping) else None
    if not isinstance(model, str):
        raise UsageError('the payload names no model: {"model":"NAME"}.')
    if name == "rollback":
        return MethodAnswer(200, operations.describe(await resident.rollback(model)))
    if name == "hold":
        await resident.hold(model)
    else:
        resident.release(model)
    return MethodAnswer(200, {})
