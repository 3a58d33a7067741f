"""The last desired properties that were read, kept durably so that a device that starts offline knows its wishes.

What a medium brought while no hub could be asked stands in for a wish, until the hub has an opinion on that model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from modelsync_daemon.disk.database import Database
from modelsync_protocol import names, twin
from modelsync_protocol.errors import ModelsyncError
from modelsync_protocol.twin import Desired, Wish

_KEY, _CARRIED = "desired", "carried"


@dataclass(frozen=True, slots=True)
class Carried:
    """A version from a medium; `path`: where that is, as long as the version is still to be brought from it."""

    version: int
    path: str | None = None


class DesiredState:
    """What the twin desires, as understood now, and what was carried here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now: Desired = twin.parse_desired(_remembered(database, _KEY))
        self.carried: dict[str, Carried] = _parse_carried(_remembered(database, _CARRIED))

    def accept(self, document: Mapping[str, Any]) -> bool:
        """Take over desired properties; False if nothing that matters changed."""
        kept = {key: document[key] for key in (twin.SECTION, "$version") if key in document}
        before, self.now = self.now, twin.parse_desired(kept)
        self._database.remember(_KEY, json.dumps(kept, sort_keys=True))
        for name, carried in list(self.carried.items()):
            wish = self.now.models.get(name, Wish())
            coming = carried.path is not None and wish.version == carried.version
            if wish.absent or (wish.version is not None and not coming):
                self.drop(name)
        return (before.origin, before.models, before.policy) != (
            self.now.origin,
            self.now.models,
            self.now.policy,
        )

    def of(self, name: str) -> Wish:
        """What is desired of `name`; no opinion if it is not mentioned."""
        wish, carried = self.now.models.get(name, Wish()), self.carried.get(name)
        return wish if carried is None or wish.absent else replace(wish, version=carried.version)

    def carry(self, name: str, version: int, path: str | None) -> None:
        """Wish for a version that a medium has (`path`), or that came by one (None)."""
        self._keep({**self.carried, name: Carried(version, path)})

    def drop(self, name: str) -> None:
        """Nothing carried counts for `name` any more."""
        self._keep({key: carried for key, carried in self.carried.items() if key != name})

    def medium(self, name: str, version: int | None) -> str | None:
        """Where that version is to be brought from, if a medium has it."""
        carried = self.carried.get(name)
        return None if carried is None or carried.version != version else carried.path

    def _keep(self, carried: dict[str, Carried]) -> None:
        self.carried = carried
        self._database.remember(_CARRIED, json.dumps({name: asdict(item) for name, item in sorted(carried.items())}))


def _remembered(database: Database, key: str) -> Any:
    try:
        return json.loads(database.document(key) or "{}")
    except ValueError:
        return {}


def _parse_carried(document: Any) -> dict[str, Carried]:
    try:
        found = {names.check_model_name(name): Carried(**item) for name, item in document.items()}
        for carried in found.values():
            names.check_version(carried.version)
    except (ModelsyncError, AttributeError, TypeError):
        return {}
    return found
