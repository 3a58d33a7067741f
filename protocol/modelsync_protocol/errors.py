"""The error roots, split by who is at fault and whether trying again helps; each knows its exit code.

A message is one sentence for a person and says what to do.
"""

from __future__ import annotations


class ModelsyncError(Exception):
    """Root of every error that modelsync raises on purpose; `exit_code` is the process's (DESIGN §9)."""

    exit_code = 1


class UsageError(ModelsyncError):
    """The caller's input is wrong (a name, a path, an option); trying again without a change won't help."""

    exit_code = 2


class RefusedError(ModelsyncError):
    """Refused by trust, by damage or by policy."""

    exit_code = 3


class FormatError(RefusedError):
    """Bytes that do not follow FORMAT.md: truncated, corrupt, hostile or of a version that we can't read."""


class UnreachableError(ModelsyncError):
    """The other side can't be reached or misbehaves; trying again may help."""

    exit_code = 4


class LocalError(ModelsyncError):
    """This machine is the trouble: disk full, data directory busy, permission."""

    exit_code = 5
