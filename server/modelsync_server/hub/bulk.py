"""Bulk changes of the registry: IoT Hub's `POST /devices` with up to 100 items, and many devices at once for tests.

Source: learn.microsoft.com/rest/api/iothub/service/bulk-registry. One item's failure does not stop the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_server.hub.registry import Registry
from modelsync_server.hub.state import State
from modelsync_server.iothub.errors import HubError, argument_invalid
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.twin_document import Json

MAX_ITEMS = 100
MAX_NEW_DEVICES = 100_000
"""Of one `add_many`."""


def change_registry(registry: Registry, items: Any) -> Json:
    """Carry out the items; return `{"isSuccessful","errors","warnings"}`. HubError 400 if it is no list of items."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise argument_invalid("the body is not a list of objects.")
    if not 0 < len(items) <= MAX_ITEMS:
        raise argument_invalid(f"the list has {len(items)} items; 1 to {MAX_ITEMS} are allowed.")
    errors = []
    for item in items:
        try:
            _carry_out(registry, item)
        except (HubError, UsageError) as error:
            name = error.name if isinstance(error, HubError) else "ArgumentInvalid"
            code = error.code if isinstance(error, HubError) else 400004
            errors.append(
                {
                    "deviceId": item.get("id"),
                    "moduleId": item.get("moduleId"),
                    "errorCode": code,
                    "errorStatus": f"{name}: {error}",
                }
            )
    return {"isSuccessful": not errors, "errors": errors, "warnings": []}


def _carry_out(registry: Registry, item: Json) -> None:
    device, module, mode = item.get("id"), item.get("moduleId"), item.get("importMode", "createOrUpdate")
    if not isinstance(device, str) or not (module is None or isinstance(module, str)):
        raise argument_invalid("id and moduleId are strings.")
    identity = Identity(device, module)
    if mode in ("create", "createOrUpdate", "update"):
        if mode == "update":
            registry.registration(identity)
        status = item.get("status") or "enabled"
        registry.put(identity, keys=_keys(item), status=status, if_match=None if mode == "create" else "*")
    elif mode == "delete":
        registry.delete(identity)
        return
    elif mode != "updateTwin":
        raise argument_invalid(f"importMode {mode!r:.40} is not known here.")
    etag = item.get("twinETag") if mode == "updateTwin" else None
    body = {key: item[key] for key in ("tags", "properties") if item.get(key) is not None}
    if body:
        registry.change(identity, body, if_match=etag)


def _keys(item: Json) -> tuple[str | None, str | None]:
    authentication = item.get("authentication")
    keys = authentication.get("symmetricKey") if isinstance(authentication, dict) else None
    if not isinstance(keys, dict):
        return None, None
    return keys.get("primaryKey"), keys.get("secondaryKey")


def numbered(prefix: str, count: int) -> list[str]:
    """The ids `prefix` + 0001…count, padded so that they sort."""
    if not 1 <= count <= MAX_NEW_DEVICES:
        raise UsageError(f"--count takes a number from 1 to {MAX_NEW_DEVICES:,}.")
    width = max(4, len(str(count)))
    return [f"{prefix}{number:0{width}}" for number in range(1, count + 1)]


def add_many(state: State, identities: Sequence[Identity]) -> int:
    """Register all that are new, in one transaction; return how many were."""
    with state.transaction():
        return sum(state.add(identity) for identity in identities)
