"""Twins and registrations as the service REST shows them, connection state included. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from modelsync_server.hub.devices import Devices
from modelsync_server.hub.state import Registration, State, Twin
from modelsync_server.iothub.identity import Identity

NEVER = "0001-01-01T00:00:00Z"


class TwinView:
    """Builds REST documents. `statuses` gives an identity's configurations and their status."""

    def __init__(self, state: State, devices: Devices) -> None:
        self._state, self._devices = state, devices
        self.statuses: Callable[[Identity], dict[str, str]] = lambda identity: {}

    def all(self, *, modules: bool, after: Identity | None = None) -> Iterator[tuple[Identity, dict[str, Any]]]:
        """Every device's, or every module's, twin document, in order of their ids, behind `after`."""
        for registration, twin in self._state.members(modules=modules, after=after):
            yield registration.identity, self.twin(registration, twin)

    def twin(self, registration: Registration, twin: Twin) -> dict[str, Any]:
        """One twin's document."""
        identity = registration.identity
        since = self._devices.connected_since(identity)
        document: dict[str, Any] = {"deviceId": identity.device}
        if identity.module is not None:
            document["moduleId"] = identity.module
        document |= {
            "etag": twin.etag,
            "deviceEtag": registration.etag,
            "status": registration.status,
            "statusUpdateTime": NEVER,
            "connectionState": "Connected" if since else "Disconnected",
            "lastActivityTime": self._last_activity(identity, twin),
            "cloudToDeviceMessageCount": 0,
            "authenticationType": "sas",
            "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
            "modelId": "",
            "version": twin.version,
            "tags": twin.tags,
            "properties": {"desired": twin.desired.for_service(), "reported": twin.reported.for_service()},
            "capabilities": {"iotEdge": False},
        }
        statuses = self.statuses(identity)
        if statuses:
            document["configurations"] = {name: {"status": status} for name, status in statuses.items()}
        return document

    def registration(self, registration: Registration) -> dict[str, Any]:
        """One registration's document, keys included."""
        identity = registration.identity
        since = self._devices.connected_since(identity)
        document: dict[str, Any] = {
            "deviceId": identity.device,
            "generationId": registration.generation,
            "etag": registration.etag,
            "connectionState": "Connected" if since else "Disconnected",
            "connectionStateUpdatedTime": since or NEVER,
            "lastActivityTime": since or NEVER,
            "cloudToDeviceMessageCount": 0,
            "authentication": {
                "symmetricKey": {
                    "primaryKey": registration.primary_key,
                    "secondaryKey": registration.secondary_key,
                },
                "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
                "type": "sas",
            },
        }
        if identity.module is not None:
            return document | {"moduleId": identity.module, "managedBy": ""}
        return document | {
            "status": registration.status,
            "statusReason": None,
            "statusUpdatedTime": NEVER,
            "capabilities": {"iotEdge": False},
        }

    def _last_activity(self, identity: Identity, twin: Twin) -> str:
        """When it was last heard of: now if connected, else the end of its session, else its last report."""
        seen = self._devices.last_seen(identity)
        if seen is not None:
            return seen
        reported = twin.reported
        return str(reported.metadata.get("$lastUpdated", NEVER)) if reported.version > 1 else NEVER
