"""Where the demo's store lies: in a folder, or with MODELSYNC_DEMO_STORE=s3 in an S3 that runs on this machine."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from examples.demo.stage import StageError

VARIABLE = "MODELSYNC_DEMO_STORE"


def place(work: Path, stack: ExitStack) -> tuple[str, dict[str, str]]:
    """The store's address, and what commands need in their environment to reach it. Whatever runs ends with `stack`."""
    kind = os.environ.get(VARIABLE, "directory")
    if kind == "directory":
        return str(work / "store"), {}
    if kind != "s3":
        raise StageError(f"{VARIABLE} is {kind!r}: set it to directory or s3")
    from tests.support.cloud_servers import make_bucket, moto, s3_environment

    endpoint = stack.enter_context(moto())
    return f"s3://{make_bucket(endpoint, 'modelsync-demo')}/models", s3_environment(endpoint)
