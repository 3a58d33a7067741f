"""What a daemon on a broker keeps of its control plane: the desired properties that it follows, and what is wrong.

The broker may lose them, or come back with older ones; the doctor reads the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelsync_daemon.disk.durable import durable_write

FILE_NAME = "control.json"
"""In the data directory."""


@dataclass(frozen=True, slots=True)
class ControlState:
    """`where`: broker and device, so that another broker's documents don't count. `problem`: a sentence, or empty."""

    where: str = ""
    desired: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class ControlFile:
    """The state of one data directory, written when it changes."""

    def __init__(self, root: Path, where: str) -> None:
        self._path = root / FILE_NAME
        found = read(root)
        self.state = found if found.where == where else ControlState(where)

    def change(self, **values: Any) -> None:
        """Keep new values. Raises LocalError."""
        after = replace(self.state, **values)
        if after != self.state:
            document = {"where": after.where, "desired": after.desired, "problem": after.problem}
            durable_write(self._path, json.dumps(document).encode(), mode=0o600)
            self.state = after


def read(root: Path) -> ControlState:
    """The state that lies there; an empty one if there is none or it can't be read."""
    try:
        document = json.loads((root / FILE_NAME).read_bytes())
        where, desired, problem = document["where"], document["desired"], document["problem"]
    except (OSError, ValueError, KeyError, TypeError):
        return ControlState()
    usable = isinstance(where, str) and isinstance(desired, dict) and isinstance(problem, str)
    return ControlState(where, desired, problem) if usable else ControlState()
