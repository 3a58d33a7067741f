"""What the hub should show of this device, kept durably until the hub has it; newer documents replace older ones.

It sends nothing: who holds the connection takes `patch` and says `delivered`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelsync_daemon.disk.database import Database
from modelsync_protocol import twin

_WANTED, _SHOWN = "outbox", "reported"


class Outbox:
    """One row for what is wanted, one for what the hub acknowledged."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted = _load(database.document(_WANTED))
        self._shown = _load(database.document(_SHOWN))

    def put(self, document: Mapping[str, Any]) -> bool:
        """Want `document` to be shown; False if nothing but the ledger differs from what was wanted before."""
        if _without_ledger(document) == _without_ledger(self._wanted):
            return False
        self._wanted = dict(document)
        self._database.remember(_WANTED, json.dumps(self._wanted))
        return True

    def patch(self) -> dict[str, Any]:
        """The merge patch that is still to be sent; empty if the hub shows everything (the ledger never urges)."""
        if _without_ledger(self._wanted) == _without_ledger(self._shown):
            return {}
        return twin.difference(self._shown, self._wanted)

    def delivered(self, patch: Mapping[str, Any]) -> None:
        """The hub has merged `patch`."""
        self._show(twin.merge(self._shown, patch))

    def seen(self, reported: Mapping[str, Any]) -> None:
        """The hub's reported half was read: it counts, whatever was sent before."""
        section = reported.get(twin.SECTION)
        self._show({twin.SECTION: section} if isinstance(section, Mapping) else {})

    def _show(self, shown: dict[str, Any]) -> None:
        self._shown = shown
        self._database.remember(_SHOWN, json.dumps(shown))


def _load(text: str | None) -> dict[str, Any]:
    try:
        document = json.loads(text or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _without_ledger(document: Mapping[str, Any]) -> dict[str, Any]:
    section = document.get(twin.SECTION)
    return (
        {key: value for key, value in section.items() if key not in ("ledger", "site")}
        if isinstance(section, Mapping)
        else {}
    )
