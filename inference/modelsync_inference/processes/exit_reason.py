"""How a process ended, as the rest of a sentence."""

from __future__ import annotations

import contextlib
import signal


def fate(status: int | None) -> str:
    """`status`: the exit code, or minus the signal; None: nobody knows."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"ended with exit code {status}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"
