"""Who this device is to the hub: builds the SDK's clients from the settings. It connects nothing itself but DPS.

Connection string (key or X.509), IoT Edge's workload API, or the Device Provisioning Service (key or X.509).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from azure.iot.device import X509, ProxyOptions
from azure.iot.device.aio import IoTHubDeviceClient, IoTHubModuleClient, ProvisioningDeviceClient

from modelsync_daemon.config import Settings
from modelsync_daemon.control.azure_internals import SocketCounter
from modelsync_daemon.disk.durable import durable_unlink, durable_write
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError

ASSIGNMENT_FILE = "hub.json"
"""In the data directory: the hub that the provisioning service assigned, so that it is asked once only."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A hub's host name and the device's id there, as assigned to `registration` of `scope`."""

    scope: str
    registration: str
    hub: str
    device: str


def build_client(settings: Settings, assignment: Assignment | None) -> Any:
    """The SDK's client for the settings; `assignment` is needed for a provisioned identity. It may block.

    Raises UsageError for an identity that can't be used, UnreachableError if IoT Edge does not answer.
    """
    options: dict[str, Any] = {
        "keep_alive": settings.keep_alive_seconds,
        "connection_retry": False,
        "auto_connect": False,
        "ensure_desired_properties": False,
        **_line(settings),
    }
    keyed = {**options, "sastoken_ttl": settings.token_seconds}
    try:
        if settings.edge:
            return IoTHubModuleClient.create_from_edge_environment(**keyed)
        ca = settings.read_ca()
        if ca is not None:
            options["server_verification_cert"] = keyed["server_verification_cert"] = ca
        if assignment is not None:
            gateway = {"gateway_hostname": settings.gateway} if settings.gateway else {}
            if settings.x509_cert:
                return _with_certificate(settings, assignment.hub, assignment.device, None, {**options, **gateway})
            key = settings.read_dps_key()
            return IoTHubDeviceClient.create_from_symmetric_key(
                key, assignment.hub, assignment.device, **keyed, **gateway
            )
        text = settings.read_connection_string() or ""
        parts = {name.lower(): value for name, _, value in (item.partition("=") for item in text.split(";"))}
        if "sharedaccesskey" in parts:
            kind = IoTHubModuleClient if "moduleid" in parts else IoTHubDeviceClient
            return kind.create_from_connection_string(text, **keyed)
        gateway = {"gateway_hostname": parts["gatewayhostname"]} if parts.get("gatewayhostname") else {}
        host, device, module = parts["hostname"], parts["deviceid"], parts.get("moduleid")
        return _with_certificate(settings, host, device, module, {**options, **gateway})
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the hub's connection string can't be used ({error}); copy it anew.") from error
    except OSError as error:
        raise UnreachableError(f"IoT Edge's workload API does not answer ({error}).") from error


async def provision(settings: Settings, counter: SocketCounter) -> Assignment:
    """The hub that this device is assigned to: the remembered one, else the provisioning service's answer.

    Raises RefusedError if the service does not enrol this device; the SDK's own errors pass through.
    """
    scope, registration = settings.dps_scope or "", settings.dps_registration or ""
    remembered = remembered_assignment(settings)
    if remembered is not None:
        return remembered
    options: dict[str, Any] = {"keep_alive": 60, **_line(settings)}
    ca = settings.read_ca()
    if ca is not None:
        options["server_verification_cert"] = ca
    kind, host = ProvisioningDeviceClient, settings.dps_host
    if settings.x509_cert:
        client = kind.create_from_x509_certificate(host, registration, scope, _x509(settings), **options)
    else:
        try:
            client = kind.create_from_symmetric_key(host, registration, scope, settings.read_dps_key(), **options)
        except (ValueError, TypeError) as error:
            raise UsageError("the key in dps_key_file is not base64; copy it anew.") from error
    counter.attach(client)
    result = await client.register()
    state = result.registration_state
    if result.status != "assigned" or state is None or not state.assigned_hub:
        raise RefusedError(
            f"the provisioning service answers {result.status!r} for {registration}; check its enrolment there."
        )
    assignment = Assignment(scope, registration, str(state.assigned_hub), str(state.device_id))
    durable_write(settings.data / ASSIGNMENT_FILE, json.dumps(asdict(assignment)).encode(), mode=0o600)
    return assignment


def forget_assignment(settings: Settings) -> None:
    """The assigned hub refuses this device: it may have been moved, so the service is asked again next time."""
    durable_unlink(settings.data / ASSIGNMENT_FILE)


def remembered_assignment(settings: Settings) -> Assignment | None:
    """What the provisioning service assigned these settings to, if it was ever asked."""
    found = _remembered(settings.data / ASSIGNMENT_FILE)
    wanted = (settings.dps_scope or "", settings.dps_registration or "")
    return found if found is not None and (found.scope, found.registration) == wanted else None


def _remembered(path: Path) -> Assignment | None:
    try:
        return Assignment(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _with_certificate(settings: Settings, host: str, device: str, module: str | None, options: dict[str, Any]) -> Any:
    if module:
        return IoTHubModuleClient.create_from_x509_certificate(_x509(settings), host, device, module, **options)
    return IoTHubDeviceClient.create_from_x509_certificate(_x509(settings), host, device, **options)


def _x509(settings: Settings) -> X509:
    for key, path in (("x509_cert", settings.x509_cert), ("x509_key", settings.x509_key)):
        if path is None or not path.is_file():
            raise UsageError(f"the setting {key} names no file; this identity needs a certificate and its key.")
    return X509(str(settings.x509_cert), str(settings.x509_key))  # type: ignore[no-untyped-call]  # the SDK's


def _line(settings: Settings) -> dict[str, Any]:
    """How the SDK reaches the hub: port 443 instead of 8883, and a proxy."""
    options: dict[str, Any] = {"websockets": True} if settings.websockets else {}
    if settings.proxy:
        parts = urlsplit(settings.proxy)
        user = unquote(parts.username) if parts.username else None
        secret = unquote(parts.password) if parts.password else None
        options["proxy_options"] = ProxyOptions(  # type: ignore[no-untyped-call]  # the SDK's
            "HTTP", parts.hostname, parts.port or 8080, user, secret
        )
    return options
