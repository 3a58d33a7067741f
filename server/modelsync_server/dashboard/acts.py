"""What the buttons do: the calls of the command line, and lines in the audit log for each, whatever came of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelsync_protocol import names
from modelsync_protocol.errors import LocalError, ModelsyncError, UsageError
from modelsync_server.dashboard.text import shown
from modelsync_server.rollout import acting, running
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.record import State

DEVICE_ACTS = ("status", "sync", "rollback", "hold", "release")
ROLLOUT_ACTS = ("pause", "resume", "abort", "return")
_KEPT = 1000
_READ_BYTES = 1_000_000
_ANSWER_SECONDS = 20


class Audit:
    """Appends JSON lines: who, what, on what, when (UTC), the answer. None: to stderr. The last ones can be read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: deque[dict[str, str]] = deque(maxlen=_KEPT)
        self._known: tuple[tuple[int, int], list[dict[str, str]]] = (0, 0), []

    def write(self, who: str, what: str, on: str, answer: str) -> None:
        """One line; LocalError if it can't be written, which is noticed before the next act."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"when": moment, "who": who, "what": what, "on": on, "answer": answer}
        line = json.dumps(entry) + "\n"
        if self._path is None:
            sys.stderr.write(line)
            self._kept.append(entry)
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise LocalError(f"the audit log {self._path} can't be written ({error.strerror}).") from error

    def recent(self) -> list[dict[str, str]]:
        """The last acts, newest first, without their beginnings; of a file, those in its last megabyte."""
        lines = [*self._kept] if self._path is None else self._read()
        done = [each for each in lines if each.get("answer") != "begun"]
        return list(reversed(done))[:_KEPT]

    def _read(self) -> list[dict[str, str]]:
        assert self._path is not None
        try:
            about = self._path.stat()
            state = about.st_size, about.st_mtime_ns
            if state == self._known[0]:
                return self._known[1]
            with self._path.open("rb") as file:
                file.seek(max(0, about.st_size - _READ_BYTES))
                raw = file.read()
        except OSError:
            return []
        found: list[dict[str, str]] = []
        for line in raw.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut at the beginning, or by a crash
            if isinstance(entry, dict):
                found.append({str(key): shown(value) for key, value in entry.items()})
        self._known = state, found
        return found


class Act:
    """One act as a form asks for it: on a rollout, or on a device or a module of it."""

    def __init__(self, form: Mapping[str, str]) -> None:
        self.what, self.model = form.get("act", ""), form.get("model", "")
        self.device, self.module = form.get("device", ""), form.get("module", "")

    @property
    def on(self) -> str:
        """What the audit log calls it."""
        where = f"{self.device}/{self.module}" if self.module else self.device
        return " ".join(filter(None, (where, self.model)))


async def act(hub: FleetHub, audit: Audit, who: str, form: Mapping[str, str]) -> tuple[str, Any]:
    """Do what a form asks for; one sentence on what came of it, and a device's answer. Errors are answers."""
    asked = Act(form)
    audit.write(who, asked.what, asked.on, "begun")  # an act that can't be written down is not done
    payload: Any = None
    try:
        if asked.device:
            said, payload = await _on_device(hub, asked)
        else:
            said = await _on_rollout(hub, asked.what, asked.model, who)
    except ModelsyncError as error:
        said = str(error)
    try:
        audit.write(who, asked.what, asked.on, said)
    except LocalError as error:
        said = f"{said} But {error}"
    return said, payload


async def _on_device(hub: FleetHub, asked: Act) -> tuple[str, Any]:
    what, where = asked.what, f"{asked.device}/{asked.module}" if asked.module else asked.device
    if what not in DEVICE_ACTS:
        raise UsageError(f"{what!r:.20} is none of {', '.join(DEVICE_ACTS)}.")
    payload = None
    if what not in ("sync", "status"):
        payload = {"model": names.check_model_name(asked.model)}
    answer = await hub.invoke(asked.device, what, payload, asked.module or None, response_seconds=_ANSWER_SECONDS)
    if 200 <= answer.status < 300:
        return f"{where} answered {what} with {answer.status}.", answer.payload if what == "status" else None
    text = answer.payload.get("error") if isinstance(answer.payload, dict) else ""
    return f"{where} refused {what} ({answer.status}): {shown(text)}", None


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
