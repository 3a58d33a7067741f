"""Connection strings: reads and writes `Key=Value;…`. No I/O here.

A service connection string of Azure has HostName, SharedAccessKeyName and SharedAccessKey. Ours adds
GatewayHostName (`address:port` where HostName's service is really reached) and CaFile (PEM file to trust).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelsync_protocol.errors import UsageError
from modelsync_server.iothub.identity import Identity

_SERVICE_HELP = "HostName=…;SharedAccessKeyName=…;SharedAccessKey=…"


@dataclass(frozen=True, slots=True)
class ServiceConnection:
    """How to reach a hub's service side and with what key."""

    host_name: str
    policy: str
    key: str
    gateway: str | None = None
    ca_file: Path | None = None

    @property
    def base_url(self) -> str:
        """`https://host[:port]` without a trailing slash."""
        return f"https://{self.gateway or self.host_name}"

    def __str__(self) -> str:
        text = f"HostName={self.host_name};SharedAccessKeyName={self.policy};SharedAccessKey={self.key}"
        if self.gateway is not None:
            text += f";GatewayHostName={self.gateway}"
        if self.ca_file is not None:
            text += f";CaFile={self.ca_file}"
        return text


def parse_service(text: str) -> ServiceConnection:
    """Parse a service connection string, Azure's or ours; raise UsageError (which never repeats the key)."""
    fields = _fields(text, _SERVICE_HELP)
    try:
        host, policy, key = fields["hostname"], fields["sharedaccesskeyname"], fields["sharedaccesskey"]
    except KeyError as error:
        raise UsageError(f"this is not a service connection string; it looks like {_SERVICE_HELP}.") from error
    ca_file = fields.get("cafile")
    return ServiceConnection(host, policy, key, fields.get("gatewayhostname"), Path(ca_file) if ca_file else None)


def format_device(identity: Identity, host_name: str, gateway: str, key: str) -> str:
    """Connection string of a device or module as azure-iot-device reads it, with the gateway that it connects to."""
    module = "" if identity.module is None else f";ModuleId={identity.module}"
    return f"HostName={host_name};DeviceId={identity.device}{module};SharedAccessKey={key};GatewayHostName={gateway}"


def _fields(text: str, example: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in text.strip().strip(";").split(";"):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise UsageError(f"this is not a connection string; it looks like {example}.")
        fields[name.strip().lower()] = value.strip()
    return fields
