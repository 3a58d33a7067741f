"""What one part of the daemon tells the others without knowing them. They carry no data: who is told looks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Signals:
    """`changed`: there is something new to report. `look`: every model is to be looked at now."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    look: asyncio.Event = field(default_factory=asyncio.Event)
