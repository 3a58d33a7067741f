"""What the device would report if it had a line, numbered, for somebody to carry to the hub. It signs nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from modelsync_daemon.disk.database import Database
from modelsync_protocol import twin

_KEY = "report_sequence"


def build(database: Database, status: Mapping[str, Any], problems: Mapping[str, str]) -> dict[str, Any]:
    """The reported half of the twin, when it was made (UTC) and its number, which is durable before this returns.

    Numbers rise, also over a data directory that was lost, as long as the clock does. Raises LocalError.
    """
    now = int(database.clock())
    sequence = max(_last(database) + 1, now)
    database.remember(_KEY, str(sequence))
    return {
        "sequence": sequence,
        "issued": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "reported": twin.build_reported(status, problems),
    }


def _last(database: Database) -> int:
    text = database.document(_KEY) or ""
    return int(text) if text.isdecimal() else 0
