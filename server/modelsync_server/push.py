"""Brings one version to one connected device over the hub's own connection: `apply`, then the desired version.

What can't be pushed is fetched by the device as usual: the desired version is set in any case.
"""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import caps, codecs, names, near_names, twin
from modelsync_protocol.errors import FormatError, UnreachableError, UsageError
from modelsync_server.iothub.port import HubService
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.trust import catalogue_for


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a push. `pushed` bytes of the update object (None: the device fetches, and `reason` says why)."""

    device: str
    module: str | None
    name: str
    version: int
    pushed: int | None
    reason: str | None


async def push(
    store: Store, service: HubService, name: str, device: str, module: str | None = None, version: int | None = None
) -> PushResult:
    """Push `version` (default: the newest) if the device holds a base, then set it as desired.

    UsageError for an unknown model, version or device; UnreachableError or RefusedError if the hub can't be used.
    """
    names.check_model_name(name)
    model = (await catalogue_for(store, name)).model(name)
    wanted = max(model.versions, default=0) if version is None else version
    if wanted not in model.versions:
        meant = near_names.near_version(wanted, model.versions)
        raise UsageError(f"the store signs no version {wanted} of {name!r}{meant}: see `modelsync list`.")
    reported = (await service.twin(device, module)).get("properties", {}).get("reported", {})
    base, formats = _held(reported, name), newest_format(_section(reported, "daemon", "formats"))
    payload, size, reason = await payload_for(store, name, wanted, model.versions[wanted], base, formats)
    if payload is not None:
        try:
            answer = await service.invoke(device, "apply", payload, module)
        except UnreachableError as error:
            reason = str(error)
        else:
            if answer.status != 200:
                said = answer.payload.get("error") if isinstance(answer.payload, dict) else None
                reason = str(said or f"the device answers {answer.status}.")
    patch = {twin.SECTION: {"models": {name: {"version": wanted}}}}
    await service.set_desired(device, patch, module)
    return PushResult(device, module, name, wanted, None if reason else size, reason)


async def payload_for(
    store: Store, name: str, version: int, digest: str, base: str | None, formats: int = 1
) -> tuple[dict[str, Any] | None, int, str | None]:
    """The payload of `apply` and the update's bytes, or the reason why there is none.

    `formats` is the newest version of the update's format that the device reads; the smallest update is taken.
    """
    if base is None:
        return None, 0, "the device reports no version of this model to build on."
    if base == digest:
        return None, 0, "the device has these very bytes."
    made = []
    for format_version in range(1, formats + 1):
        with suppress(ObjectNotFound, FormatError):
            made.append(await store.get(names.update_object(digest, base, format_version)))
    if not made:
        return None, 0, "the store has no update from what the device has; publish with --bases."
    data = min(made, key=len)
    payload = {
        "model": name,
        "version": version,
        "base": base,
        "trust": base64.b85encode(await store.get(names.bundle_object(name))).decode(),
        "update": base64.b85encode(data).decode(),
    }
    length = len(json.dumps(payload))
    if length > caps.MAX_PUSH_BYTES:
        return None, 0, f"a push would have {length} bytes, and at most {caps.MAX_PUSH_BYTES} are allowed."
    return payload, len(data), None


def newest_format(reported: object) -> int:
    """The newest version of the update's format that a device reads and a publisher writes, of the list it reports."""
    known = reported if isinstance(reported, list) else []
    return max((number for number in known if type(number) is int and 1 <= number <= codecs.NEWEST_VERSION), default=1)


def _held(reported: Any, name: str) -> str | None:
    digest = _section(reported, "models", name, "digest")
    return digest if isinstance(digest, str) else None


def _section(reported: Any, *path: str) -> object:
    try:
        for key in (twin.SECTION, *path):
            reported = reported[key]
    except (KeyError, TypeError):
        return None
    found: object = reported
    return found
