"""The doctor's look at the origin and the hub: one small request each, as the daemon would make it. No login."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from modelsync_daemon.config import BROKER_PORTS, Settings, check_broker
from modelsync_daemon.disk import control_state
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.doctor import read_only
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.transfer.origin_secret import FILE_NAME, Access
from modelsync_protocol import trust, twin
from modelsync_protocol.errors import ModelsyncError, UsageError
from modelsync_protocol.findings import Finding, good, problem, warning

_SECONDS = 10.0
_MQTT_PORT, _WEB_PORT = 8883, 443
_MAX_TIMESTAMP_BYTES = 64 * 1024
_WORKLOAD = "IOTEDGE_WORKLOADURI"


def origin(settings: Settings, data: DataDir) -> Iterator[Finding]:
    """Whether the origin of the settings, else of the last twin, gives its timestamp."""
    url = settings.origin or _desired_origin(data)
    if url is None:
        yield warning("origin", "no origin is known: neither the settings nor the twin name one.")
        return
    shown = url.partition("?")[0].rstrip("/")
    mend = f"curl --verbose {quote(f'{shown}/{trust.TIMESTAMP_OBJECT}')}"
    try:
        asyncio.run(_ask(url, settings, data))
    except ModelsyncError as error:
        yield problem("origin", f"{shown}: {error}", mend, error.exit_code)
    else:
        yield good("origin", f"{shown} answers.")


async def _ask(url: str, settings: Settings, data: DataDir) -> None:
    access = Access([path for path in (settings.origin_sas_file, data.root / FILE_NAME) if path])
    client = Origin(url, settings.origin_ca, stall_seconds=_SECONDS, access=access, proxy=settings.proxy)
    async with client:
        await client.get(trust.TIMESTAMP_OBJECT, _MAX_TIMESTAMP_BYTES)


def _desired_origin(data: DataDir) -> str | None:
    """The origin that the twin last named, read without taking or making anything."""
    with contextlib.suppress(sqlite3.Error, ValueError, TypeError):
        with contextlib.closing(read_only.connect(data)) as connection:
            row = connection.execute("SELECT value FROM documents WHERE key = 'desired'").fetchone()
        return twin.parse_desired(json.loads(row[0])).origin
    return None


def hub(settings: Settings) -> Iterator[Finding]:
    """Whether the hub's address answers and its certificate is believed."""
    if not settings.has_hub:
        yield warning("hub", "the settings name no hub: this device follows no twin.")
        return
    if settings.control_url is not None:
        yield from broker(settings)
        return
    if settings.edge:
        yield _edge()
        return
    try:
        host = _host(settings)
    except UsageError as error:
        yield problem("hub", str(error), "edit the connection string in the settings", error.exit_code)
        return
    yield from _reached(host, _WEB_PORT if settings.websockets or settings.dps_scope else _MQTT_PORT, settings)


def _reached(host: str, port: int, settings: Settings, tls: bool = True) -> Iterator[Finding]:
    if settings.proxy:
        yield good("hub", f"{host} is reached through the proxy, which this look does not use.")
        return
    try:
        _shake_hands(host, port, settings, tls)
    except UsageError as error:
        yield problem("hub", str(error), "edit the setting ca", error.exit_code)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or error
        mend = f"openssl s_client -connect {host}:{port}"
        yield problem("hub", f"{host}:{port} has a certificate that is not believed ({reason}).", mend, 4)
    except OSError as error:
        web = settings.websockets or settings.control_url is not None
        other = "" if web else " (a firewall that blocks 8883 lets 443 through: set websockets = true)"
        text = f"{host}:{port} does not answer: {error.strerror or error}{other}."
        yield problem("hub", text, f"nc -vz {host} {port}", 4)
    else:
        yield good("hub", f"{host}:{port} answers{', and its certificate is believed' if tls else ', without TLS'}.")


def broker(settings: Settings) -> Iterator[Finding]:
    """Whether the broker answers and its certificate is believed, and what its daemon found wrong there."""
    parts = check_broker(settings.control_url or "")
    host, port = str(parts.hostname), parts.port or BROKER_PORTS[parts.scheme]
    tls = parts.scheme in ("mqtts", "wss")
    problems = list(_reached(host, port, settings, tls))
    if not tls and settings.control_password_file is not None and not _is_loopback(host):
        yield warning("hub", f"the password goes to {host} in clear: use mqtts:// or wss:// in control_url.")
    said = control_state.read(settings.data).problem
    if said and not any(one.code for one in problems):
        yield problem("hub", said, "edit control_device in the settings", 3)
        return
    yield from problems


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _host(settings: Settings) -> str:
    if settings.dps_scope:
        return settings.gateway or settings.dps_host
    parts = dict(part.partition("=")[::2] for part in (settings.read_connection_string() or "").split(";"))
    return parts.get("GatewayHostName") or parts["HostName"]


def _shake_hands(host: str, port: int, settings: Settings, tls: bool) -> None:
    try:
        context = ssl.create_default_context(cadata=settings.read_ca())
    except ssl.SSLError as error:
        raise UsageError(f"the setting ca holds no certificates ({error.reason}).") from error
    if settings.control_url is not None and settings.x509_cert is not None:
        try:
            context.load_cert_chain(settings.x509_cert, settings.x509_key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"the certificate of x509_cert and x509_key can't be used ({error}).") from error
    with socket.create_connection((host, port), timeout=_SECONDS) as plain:
        if tls:
            with context.wrap_socket(plain, server_hostname=host):
                pass


def _edge() -> Finding:
    """IoT Edge's workload API, which signs for the module."""
    uri = os.environ.get(_WORKLOAD, "")
    path = Path(urlsplit(uri).path)
    if uri.startswith("unix:") and not path.is_socket():
        return problem("hub", f"IoT Edge's workload API is not at {path}.", "iotedge check", 4)
    return good("hub", "IoT Edge's workload API is where it should be.")
