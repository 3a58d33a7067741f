"""`modelsyncd` as a user meets it: JSON that is a contract, exit codes, one sentence on stderr, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

PULL = "from modelsync_daemon.cli import main; main()"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run modelsyncd to its end."""
    return subprocess.run(
        [sys.executable, "-c", PULL, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def complains(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    """Assert that a call failed with `code` and one sentence."""
    assert done.returncode == code, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert done.stderr.startswith("modelsyncd: ") and done.stderr.endswith(".\n")
