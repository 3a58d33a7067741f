"""Spreads the first connections of devices whose power returns at the same moment."""

from __future__ import annotations

import random
from pathlib import Path

FRESH_SECONDS = 120.0
"""A daemon that starts so soon after its machine was started with it; later, somebody started it by hand."""


def first_pause(spread: float, uptime: float | None) -> float:
    """Seconds to wait before hub and origin are first asked: 0 to `spread` if the machine has just been started.

    `uptime` is the machine's, seconds (None: unknown).
    """
    return random.uniform(0.0, spread) if uptime is not None and uptime < FRESH_SECONDS else 0.0


def machine_uptime() -> float | None:
    """Seconds since the machine was started; None where Linux does not say."""
    try:
        return float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
