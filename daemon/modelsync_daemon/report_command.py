"""`modelsyncd export-report`: writes what the device would have reported, signed with the key that the hub knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from modelsync_daemon import offline
from modelsync_daemon.config import Settings
from modelsync_daemon.disk.durable import durable_write
from modelsync_daemon.local import socket_client
from modelsync_protocol import carried_report
from modelsync_protocol.carried_report import Report
from modelsync_protocol.errors import UsageError


def run(out: Path, settings: Settings) -> dict[str, Any]:
    """Write the report to `out` (`-`: stdout); {"device","module","sequence","issued"}. Raises ModelsyncError."""
    hub, device, module, key = _identity(settings)
    try:
        found = socket_client.call(settings.data / "daemon.sock", "POST", "/v1/carried-report")
    except socket_client.NoDaemon:
        if not settings.data.is_dir():
            raise UsageError(f"{settings.data} is not a data directory; check the setting data.") from None
        found = offline.report(settings.data)
    report = Report(hub, device, module, found["sequence"], found["issued"], found["reported"])
    written = carried_report.sign(report, key)
    if str(out) == "-":
        sys.stdout.buffer.write(written)
    else:
        durable_write(out.absolute(), written)
    return {"device": device, "module": module, "sequence": report.sequence, "issued": report.issued}


def _identity(settings: Settings) -> tuple[str, str, str | None, str]:
    """Host name of the hub, device, module and key (base64). UsageError if no symmetric key is known."""
    if settings.dps_scope is not None and settings.dps_key_file is not None and settings.x509_cert is None:
        from modelsync_daemon.control.identity import remembered_assignment

        assignment = remembered_assignment(settings)
        if assignment is None:
            raise UsageError("this device was never assigned to a hub; it has to be online once before it can report.")
        return assignment.hub, assignment.device, None, settings.read_dps_key()
    text = settings.read_connection_string()
    if text is None:
        raise UsageError(
            "a report is signed with the device's symmetric key, and these settings have none (connection_string_file)."
        )
    parts = {name.lower(): value for name, _, value in (item.partition("=") for item in text.split(";"))}
    if not parts.get("sharedaccesskey"):
        raise UsageError("a report is signed with a symmetric key, and this device proves itself by a certificate.")
    return parts["hostname"], parts["deviceid"], parts.get("moduleid"), parts["sharedaccesskey"]
