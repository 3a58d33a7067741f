"""The fleet demo's result: fleet-report.json. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.demo.report import Promise, kept, write_json


@dataclass(slots=True)
class FleetReport:
    """What the demo saw. Bytes are those of rings one and two; `returned` counts devices that have back what they had.

    `stopped_in_ring` and `untouched_ring` are numbers from 1, 0 if there is none.
    """

    devices: int
    daemons: int
    stopped_in_ring: int = 0
    untouched_ring: int = 0
    returned: int = 0
    predicted_bytes: int = 0
    spent_bytes: int = 0
    promises: Sequence[Promise] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every promise held."""
        return kept(self.promises)

    def to_json(self) -> dict[str, Any]:
        """The form of fleet-report.json."""
        return {
            "ok": self.ok,
            "devices": self.devices,
            "daemons": self.daemons,
            "stopped_in_ring": self.stopped_in_ring,
            "untouched_ring": self.untouched_ring,
            "returned": self.returned,
            "predicted_bytes": self.predicted_bytes,
            "spent_bytes": self.spent_bytes,
            "promises": [promise.document() for promise in self.promises],
        }

    def write(self, path: Path) -> None:
        """Write fleet-report.json to `path`, replacing what is there."""
        write_json(path, self.to_json())
