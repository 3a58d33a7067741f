"""What the buttons do: the calls of the command line, and lines in the audit log for each, whatever came of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from modelsync_protocol import names
from modelsync_protocol.errors import LocalError, ModelsyncError, UsageError
from modelsync_server.rollout import acting, running
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.record import State

DEVICE_ACTS = ("sync", "rollback", "hold", "release")
ROLLOUT_ACTS = ("pause", "resume", "abort", "return")


class Audit:
    """Appends JSON lines: who, what, on what, when (UTC), and the answer. None: to stderr."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, who: str, what: str, on: str, answer: str) -> None:
        """One line; LocalError if it can't be written, which is noticed before the next act."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"when": moment, "who": who, "what": what, "on": on, "answer": answer}) + "\n"
        if self._path is None:
            sys.stderr.write(line)
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise LocalError(f"the audit log {self._path} can't be written ({error.strerror}).") from error


async def act(hub: FleetHub, audit: Audit, who: str, form: Mapping[str, str]) -> str:
    """Do what a form asks for; one sentence on what came of it. Errors are answers, and audited too."""
    what, device, model = form.get("act", ""), form.get("device", ""), form.get("model", "")
    on = " ".join(filter(None, (device, model)))
    audit.write(who, what, on, "begun")  # an act that can't be written down is not done
    try:
        said = await (_on_device(hub, what, device, model) if device else _on_rollout(hub, what, model, who))
    except ModelsyncError as error:
        said = str(error)
    audit.write(who, what, on, said)
    return said


async def _on_device(hub: FleetHub, what: str, device: str, model: str) -> str:
    if what not in DEVICE_ACTS:
        raise UsageError(f"{what!r:.20} is none of {', '.join(DEVICE_ACTS)}.")
    payload = None
    if what != "sync":
        payload = {"model": names.check_model_name(model)}
    answer = await hub.invoke(device, what, payload, response_seconds=20)
    if 200 <= answer.status < 300:
        return f"{device} answered {what} with {answer.status}."
    text = answer.payload.get("error") if isinstance(answer.payload, dict) else ""
    return f"{device} refused {what} ({answer.status}): {str(text)[:300]}"


async def _on_rollout(hub: FleetHub, what: str, model: str, who: str) -> str:
    names.check_model_name(model)
    if what == "pause":
        found = await acting.pause(hub, model, by=who)
    elif what == "resume":
        found = await acting.resume(hub, model, by=who)
    elif what in ("abort", "return"):
        found = await acting.abort(hub, model, by=who, back=what == "return")
    else:
        raise UsageError(f"{what!r:.20} is none of {', '.join(ROLLOUT_ACTS)}.")
    if found.state is State.RETURNING:  # no ring is opened without the store, which knows what was withdrawn
        await running.settle(hub, None, model)
    return f"the rollout of {found.name}: {found.state.value}."
