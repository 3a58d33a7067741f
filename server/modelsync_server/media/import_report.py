"""Sets a report that was carried here at the hub: once, in order, and only what the device itself has signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import carried_report, trust, twin
from modelsync_protocol.carried_report import Report
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.iothub.connection_string import ServiceConnection
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.media import device_session
from modelsync_server.media.device_session import DEVICE_PORT

TAG = "modelsyncCarried"
"""The twin's tag that remembers the last report: `sequence`, `issued`, whether it is `set`, and the reported half's
`version` behind it. A tag, because the device can't change those."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was set: whose, its number and time, and the models in it."""

    identity: Identity
    sequence: int
    issued: str
    models: Mapping[str, Any]


async def import_report(
    hub: ServiceClient, connection: ServiceConnection, data: bytes, port: int = DEVICE_PORT
) -> Told:
    """Verify a report with the key in the hub's registry and make it the device's reported half.

    RefusedError: not signed by that device, of another hub, not newer than the last one that was carried here, or older
    than what the device has said itself; ConflictError if somebody else does the same. Interrupted, it may be repeated.
    """
    claimed = carried_report.decode(data)
    identity = Identity(claimed.device, claimed.module)
    if claimed.hub.lower() != connection.host_name.lower():
        raise RefusedError(f"this report is for the hub {claimed.hub}, and this is {connection.host_name}.")
    keys = _keys(await hub.registration(identity.device, identity.module), identity)
    report = carried_report.check(data, keys)
    document = await hub.twin(identity.device, identity.module)
    _check_new(report, document)
    mark = {"sequence": report.sequence, "issued": report.issued}
    # First the claim: whoever tries an older report meanwhile, or the same, finds it or loses by the ETag.
    claimed_twin = await hub.update_twin(
        identity.device, {"tags": {TAG: {**mark, "set": False}}}, identity.module, etag=str(document.get("etag", ""))
    )
    section = report.reported.get(twin.SECTION)
    before = {key: value for key, value in _reported(document).items() if key == twin.SECTION}
    patch = twin.difference(before, {twin.SECTION: section} if isinstance(section, dict) else {})
    if patch:
        await device_session.report(connection, identity, keys[0], patch, port)
    after = _reported(await hub.twin(identity.device, identity.module)).get("$version")
    await hub.update_twin(
        identity.device,
        {"tags": {TAG: {**mark, "set": True, "version": after}}},
        identity.module,
        etag=str(claimed_twin.get("etag", "")),
    )
    models = section.get("models") if isinstance(section, dict) else None
    return Told(identity, report.sequence, report.issued, models if isinstance(models, dict) else {})


def _keys(registration: Mapping[str, Any], identity: Identity) -> list[str]:
    authentication = registration.get("authentication")
    symmetric = authentication.get("symmetricKey") if isinstance(authentication, Mapping) else None
    found = [symmetric.get(f"{which}Key") for which in ("primary", "secondary")] if symmetric else []
    keys = [key for key in found if isinstance(key, str) and key]
    if not keys:
        raise UsageError(f"{identity} has no symmetric key at this hub, so that its reports can't be verified.")
    return keys


def _check_new(report: Report, document: Mapping[str, Any]) -> None:
    reported = _reported(document)
    if str(document.get("connectionState", "")).lower() == "connected":
        raise RefusedError(f"{report.device} is connected: what it reports itself is newer than any file.")
    tags = document.get("tags")
    last = tags.get(TAG) if isinstance(tags, Mapping) else None
    last = last if isinstance(last, Mapping) else {}
    sequence, done = last.get("sequence"), bool(last.get("set"))
    if type(sequence) is int and (report.sequence < sequence or (report.sequence == sequence and done)):
        raise RefusedError(
            f"report {report.sequence} of {report.device} was set here already, or a newer one was ({sequence}); write "
            "a new one with `modelsyncd export-report`."
        )
    if (done and last.get("version") == reported.get("$version")) or report.sequence == sequence:
        return  # nobody but reports that were carried here has said anything since
    said = _said(reported)
    if said and said > trust.parse_time(report.issued).timestamp():
        raise RefusedError(f"{report.device} has reported by itself since this report was written ({report.issued}).")


def _said(reported: Mapping[str, Any]) -> float:
    """When the device last reported something of ours (Unix s, the hub's clock), 0 if never."""
    metadata = reported.get("$metadata")
    section = metadata.get(twin.SECTION) if isinstance(metadata, Mapping) else None
    text = section.get("$lastUpdated") if isinstance(section, Mapping) else None
    return trust.parse_time(f"{text[:19]}Z").timestamp() if isinstance(text, str) and twin.SECTION in reported else 0.0


def _reported(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("properties", {}).get("reported")
    return found if isinstance(found, Mapping) else {}
