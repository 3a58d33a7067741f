"""AWS IoT Jobs that start an update: the job's document becomes desired, and its end is told from what is reported.

The document is `{"modelsync": {"models": {"NAME": {"version": N}}}}`, a merge patch. A job that this device does not
understand is rejected with a sentence. Source: docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from modelsync_protocol import twin
from modelsync_protocol.errors import ModelsyncError, UsageError

_JOB = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A job's id, which becomes a level of a topic."""

_ACTIVE, _FAILED = "active", "quarantined"
_MOST_TEXT = 1024
"""A value of statusDetails, characters."""

_log = logging.getLogger(__name__)


class Jobs:
    """The jobs of one thing, one after the other."""

    def __init__(
        self,
        thing: str,
        publish: Callable[[str, Mapping[str, Any]], Awaitable[None]],
        wish: Callable[[Mapping[str, Any]], Awaitable[None]],
        reported: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`publish` sends to a topic; `wish` merges a section into the desired half; `reported` is the other."""
        self._root, self._publish, self._wish = f"$aws/things/{thing}/jobs/", publish, wish
        self._reported = reported
        self._job: str | None = None
        self._wanted: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to."""
        return (f"{self._root}notify-next", f"{self._root}$next/get/accepted")

    async def ask(self) -> None:
        """Ask for the next job; one that was begun before a restart comes again."""
        self._job, self._wanted = None, {}
        await self._publish(f"{self._root}$next/get", {})

    def take(self, topic: str, document: Mapping[str, Any]) -> bool:
        """A message came; False if it is none of jobs."""
        if topic not in self.filters:
            return False
        execution = document.get("execution")
        job = execution.get("jobId") if isinstance(execution, Mapping) else None
        if isinstance(execution, Mapping) and isinstance(job, str) and _JOB.fullmatch(job) and job != self._job:
            self._job, self._wanted = job, {}
            self._task = asyncio.ensure_future(self._begin(job, execution.get("jobDocument")))
        return True

    def stop(self) -> None:
        """End what is under way here; the job itself stays open."""
        if self._task is not None:
            self._task.cancel()

    async def judge(self) -> None:
        """End the job once all its models are in service, or one was refused."""
        job, models = self._job, self._reported().get("models")
        if job is None or not self._wanted or not isinstance(models, Mapping):
            return
        found = {name: models.get(name) or {} for name in self._wanted}
        for name, model in found.items():
            if model.get("desired") == self._wanted[name] and model.get("state") == _FAILED:
                said = str((model.get("error") or {}).get("text", "refused"))
                await self._end(job, "FAILED", f"{name} version {self._wanted[name]}: {said}")
                return
        if all(
            model.get("state") == _ACTIVE and model.get("version") == self._wanted[name]
            for name, model in found.items()
        ):
            await self._end(job, "SUCCEEDED", "in service")

    async def _begin(self, job: str, document: object) -> None:
        try:
            wanted = _models(document)
        except UsageError as error:
            await self._end(job, "REJECTED", str(error))
            return
        with contextlib.suppress(ModelsyncError):  # the next connect asks for the job again
            await self._update(job, "IN_PROGRESS", "set as desired")
            self._wanted = wanted
            await self._wish({"models": {name: {"version": version} for name, version in wanted.items()}})
            _log.info("job %s: %s", job, ", ".join(f"{name} {version}" for name, version in wanted.items()))
            await self.judge()  # what was reported before the job came is not reported again

    async def _end(self, job: str, status: str, said: str) -> None:
        self._wanted = {}
        with contextlib.suppress(ModelsyncError):
            await self._update(job, status, said)

    async def _update(self, job: str, status: str, said: str) -> None:
        body = {"status": status, "statusDetails": {"modelsync": said[:_MOST_TEXT]}}
        await self._publish(f"{self._root}{job}/update", body)


def _models(document: object) -> dict[str, int]:
    """The versions that a job's document asks for. Raises UsageError."""
    section = document.get(twin.SECTION) if isinstance(document, Mapping) else None
    desired = twin.parse_desired({twin.SECTION: section if isinstance(section, Mapping) else {}})
    wanted = {name: wish.version for name, wish in desired.models.items() if wish.version is not None}
    if not wanted or desired.problems:
        said = next((f"{path} {text}" for path, text in desired.problems.items()), "")
        raise UsageError(
            'the job names no version of a model; its document is {"modelsync":{"models":{"NAME":{"version":N}}}}. '
            + said
        )
    return wanted
