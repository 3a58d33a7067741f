"""Where models run. Importing this imports nothing heavy: the command line needs it before anything else."""

from __future__ import annotations

from enum import StrEnum


class Isolation(StrEnum):
    """Where models run: in this process (`thread`), or each version in a process of its own (`process`)."""

    THREAD = "thread"
    PROCESS = "process"
