"""The daemon's worker, taken over: it carries out attempts inside the real confinement instead of its job.

`python -m tests.support.hostile_worker WHO LAYERS ATTEMPTS`: WHO is `worker`, or `checker` for the process that checks
signed metadata; LAYERS is `all`, `landlock` or `seccomp` as on machines that lack the other, or `no`, the control. What
came of the attempts is the text of the error that the job ends with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from modelsync_daemon.confinement import inheritance, landlock, layers, syscall_filter
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_daemon.workers import job_runner, worker
from modelsync_protocol.errors import RefusedError
from tests.support.hostile_code import ATTEMPTS

SCOPE: dict[str, Any] = {}
exec(compile(ATTEMPTS, "attempts", "exec"), SCOPE)  # before anything is given up: what it imports may lie in files
_SHOWN = 40
"""Characters of an answer: all of them are one error's text, which has a limit."""


def _take_over(attempts: list[Any]) -> NoReturn:
    raise RefusedError(json.dumps([SCOPE["attempt"](*one)[:_SHOWN] for one in attempts]))


def main(who: str, wanted: str, attempts: list[Any]) -> None:
    """Serve one job."""

    async def hostile(job: Any, database: Any, emit: Any, open_trust: Any, read_secret: Any) -> NoReturn:
        if who == "checker":
            open_trust(Path(job.data) / "trust").resolve("m", None, lambda path, limit: b"")
        if attempts == ["secret"]:
            raise RefusedError(json.dumps([read_secret(Path(path)) for path in (*job.secrets, "/etc/passwd")]))
        _take_over(attempts)

    job_runner.run = hostile  # type: ignore[assignment]
    if who == "checker":
        TrustStore.resolve = lambda *_, **__: _take_over(attempts)  # type: ignore[method-assign]
    if wanted == "no":
        layers._confine = lambda *_: []
        inheritance.forget_environment = lambda: None
        inheritance.keep_descriptors = lambda kept: None
    if wanted == "landlock":
        syscall_filter.library = lambda: None
    if wanted == "seccomp":
        landlock.version = lambda: 0
    worker.main()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
