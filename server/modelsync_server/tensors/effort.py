"""How hard an encoder tries. It changes sizes and times, never what a device can read. No I/O here."""

from __future__ import annotations

from enum import Enum


class Effort(Enum):
    """Levels of `modelsync publish --effort`."""

    FAST = "fast"
    """Samples, and only the ways that pay most."""
    DEFAULT = "default"
    """Samples decide which ways are tried; at most 0.3 % larger than MAX."""
    MAX = "max"
    """Every way is tried on everything."""
