"""The last desired properties that were read, kept durably so that a device that starts offline knows its wishes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelsync_daemon.disk.database import Database
from modelsync_protocol import twin
from modelsync_protocol.twin import Desired, Wish

_KEY = "desired"


class DesiredState:
    """What the twin desires, as understood now."""

    def __init__(self, database: Database) -> None:
        self._database = database
        try:
            remembered = json.loads(database.document(_KEY) or "{}")
        except ValueError:
            remembered = {}
        self.now: Desired = twin.parse_desired(remembered)

    def accept(self, document: Mapping[str, Any]) -> bool:
        """Take over desired properties; False if nothing that matters changed."""
        kept = {key: document[key] for key in (twin.SECTION, "$version") if key in document}
        before, self.now = self.now, twin.parse_desired(kept)
        self._database.remember(_KEY, json.dumps(kept, sort_keys=True))
        return (before.origin, before.models, before.policy) != (
            self.now.origin,
            self.now.models,
            self.now.policy,
        )

    def of(self, name: str) -> Wish:
        """What is desired of `name`; no opinion if it is not mentioned."""
        return self.now.models.get(name, Wish())
