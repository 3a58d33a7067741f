"""Starts `modelsync-infer` as a user would, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.support.waiting import PATIENCE_SECONDS

_COMMAND = Path(sys.executable).with_name("modelsync-infer")


def run_infer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [_COMMAND, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240, check=False
    )


class InferProcess:
    """A running server; `url` is what it printed. Leaving `with` ends it by SIGTERM."""

    def __init__(self, data: Path, *arguments: str, model: str = "anomaly") -> None:
        self.process = subprocess.Popen(
            [_COMMAND, "--data", str(data), "--model", model, *arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url: str = json.loads(self.process.stdout.readline())["url"]

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)

    def __enter__(self) -> InferProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()
