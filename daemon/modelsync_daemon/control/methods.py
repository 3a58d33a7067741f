"""The direct methods: what a hub may ask of a running daemon, and how its payloads are read. No transport here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelsync_daemon.control.plane import MethodAnswer
from modelsync_daemon.reconcile import operations
from modelsync_daemon.reconcile.commands import Commands
from modelsync_daemon.transfer import origin_secret
from modelsync_protocol.errors import ModelsyncError, UnreachableError, UsageError

_OF_MODEL = ("rollback", "hold", "release")
METHODS = ("status", "sync", *_OF_MODEL, "apply", "secret")


class Methods:
    """The direct methods of one device."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def answer(self, name: str, payload: Any) -> MethodAnswer:
        """Do what is asked; never raises. 400: wrong input, 404: no such method, 409: refused here, 503: not now."""
        try:
            return await self._answer(name, payload)
        except UsageError as error:
            return MethodAnswer(400, {"error": str(error)})
        except UnreachableError as error:
            return MethodAnswer(503, {"error": str(error)})
        except ModelsyncError as error:
            return MethodAnswer(409, {"error": str(error)})

    async def _answer(self, name: str, payload: Any) -> MethodAnswer:
        commands = self._commands
        if name == "status":
            return MethodAnswer(200, commands.status())
        if name == "sync":
            commands.sync()
            return MethodAnswer(202, {})
        if name == "apply":
            return MethodAnswer(200, await commands.apply(payload))
        if name == "secret":
            return MethodAnswer(200, {"expires": commands.keep_secret(origin_secret.of_method(payload))})
        if name not in _OF_MODEL:
            return MethodAnswer(404, {"error": f"the methods are {', '.join(METHODS[:-1])} and {METHODS[-1]}."})
        model = payload.get("model") if isinstance(payload, Mapping) else None
        if not isinstance(model, str):
            raise UsageError('the payload names no model: {"model":"NAME"}.')
        if name == "rollback":
            return MethodAnswer(200, operations.describe(await commands.rollback(model)))
        if name == "hold":
            await commands.hold(model)
        else:
            commands.release(model)
        return MethodAnswer(200, {})
