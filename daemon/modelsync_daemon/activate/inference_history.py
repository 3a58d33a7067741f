"""What inference processes say of themselves and the cloud should know: trials, and how processes ended. Durable.

A trial's counters rise with every request; the cloud gets them at its verdict, and before that once a minute.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from modelsync_daemon.activate import inference_processes as reports
from modelsync_daemon.activate.inference_processes import Report
from modelsync_daemon.disk.database import Database

_TRIAL_SECONDS = 60.0
_VERDICTS = frozenset({reports.READY, reports.REFUSED, reports.SERVING, reports.FAILED})


class InferenceHistory:
    """The latest of each model. `clock`: seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock
        self._told: dict[str, float] = {}

    def take(self, name: str, report: Report) -> bool:
        """Take in a report; whether there is something new to show."""
        before = self.document(name) or {}
        after = dict(before)
        if report.restarts:
            after |= {"restarts": report.restarts, "ended": report.ended}
        if report.trial is not None:
            after["trial"] = {"version": report.version, **report.trial}
        if after == before or not self._is_due(name, report, before, after):
            return False
        self._told[name] = self._clock()
        self._database.remember(_key(name), json.dumps(after))
        return True

    def _is_due(self, name: str, report: Report, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
        if before.get("restarts") != after.get("restarts") or before.get("ended") != after.get("ended"):
            return True
        if report.state in _VERDICTS or before.get("trial", {}).get("version") != report.version:
            return True
        return self._clock() >= self._told.get(name, 0.0) + _TRIAL_SECONDS

    def document(self, name: str) -> dict[str, Any] | None:
        """`restarts` and `ended` of the last process that was started again, `trial` with the last trial's counters."""
        return read(self._database, name)


def read(database: Database, name: str) -> dict[str, Any] | None:
    """What is kept of model `name`; None if there is nothing."""
    text = database.document(_key(name))
    document = json.loads(text) if text is not None else None
    return document if isinstance(document, dict) else None


def _key(name: str) -> str:
    return f"observed:{name}"
