"""What can be set of a resident daemon, and what of it is wrong. It starts nothing.

The table in docs/daemon.md is held against the dataclass by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from modelsync_protocol.errors import UsageError
from modelsync_protocol.policy.network_rules import NetworkRule
from modelsync_protocol.twin import MAX_INTEGER, Policy, check_origin, check_site_name, is_peer, parse_window

MAX_KEEP_ALIVE_SECONDS = 1740
"""The longest that azure-iot-device takes; IoT Hub drops a silent connection after 1767 s."""

LOG_FORMATS = ("text", "json", "journald")

_CONTROL = {
    "control_kind": ("iothub", "mqtt", "aws"),
    "control_client": ("sdk", "own"),
    "control_protocol": ("auto", "5", "3.1.1"),
}
"""Settings that are one of a few words."""

BROKER_PORTS = {"mqtts": 8883, "mqtt": 1883, "wss": 443, "ws": 80}
"""By scheme of control_url."""


@dataclass(frozen=True, slots=True)
class Tables:
    """A table of tables as it stands in the file; paths in it are relative to `base`."""

    values: Mapping[str, Any]
    base: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Durations in seconds, amounts in bytes; the constructor validates."""

    data: Path
    trust: Path | None = None
    connection_string: str | None = None
    connection_string_file: Path | None = None
    edge: bool = False
    x509_cert: Path | None = None
    x509_key: Path | None = None
    dps_scope: str | None = None
    dps_registration: str | None = None
    dps_key_file: Path | None = None
    dps_host: str = "global.azure-devices-provisioning.net"
    gateway: str | None = None
    control_kind: str = "iothub"
    control_client: str = "sdk"
    control_url: str | None = None
    control_device: str | None = None
    control_user: str | None = None
    control_password_file: Path | None = None
    control_topic: str = "modelsync"
    control_protocol: str = "auto"
    control_jobs: bool = False
    control_keep_alive_seconds: int = 3000
    websockets: bool = False
    ca: Path | None = None
    origin: str | None = None
    origin_ca: Path | None = None
    origin_sas_file: Path | None = None
    proxy: str | None = None
    socket_group: str | None = None
    metrics: bool = True
    metrics_address: str | None = None
    keep_alive_seconds: int = MAX_KEEP_ALIVE_SECONDS
    connect_every: int | None = None
    token_seconds: int = 86400
    reconcile_seconds: int = 21600
    probation_seconds: int = 60
    probe_seconds: int = 60
    stall_seconds: int = 60
    startup_spread_seconds: int = 30
    bytes_per_day: int | None = None
    bytes_per_month: int | None = None
    rate_limit: int | None = None
    windows: tuple[str, ...] = ()
    networks: tuple[NetworkRule, ...] = ()
    require_confinement: bool = False
    site_address: str | None = None
    site_peers: tuple[str, ...] = ()
    site_name: str = "site"
    site_role: str = "neighbour"
    site_cert: Path | None = None
    site_key: Path | None = None
    site_ca: Path | None = None
    site_discover: bool = False
    site_cache_bytes: int = 512 * 1024 * 1024
    ready_worker: bool = False
    log_format: str = "text"
    models: Tables | None = None
    consumers: Tables | None = None
    capabilities_check: bool = True
    capabilities_has: tuple[str, ...] = ()
    capabilities_unknown: str = "take"

    def __post_init__(self) -> None:
        sources = [bool(self.connection_string), bool(self.connection_string_file), self.edge, bool(self.dps_scope)]
        if sum(sources) > 1:
            raise UsageError("set only one of connection_string, connection_string_file, edge and dps_scope.")
        if self.dps_scope and not (self.dps_registration and (self.dps_key_file or self.x509_cert)):
            raise UsageError("dps_scope needs dps_registration, and dps_key_file or x509_cert and x509_key.")
        if bool(self.x509_cert) != bool(self.x509_key):
            raise UsageError("x509_cert and x509_key belong together: set both or none.")
        limits = {
            "keep_alive_seconds": (5, MAX_KEEP_ALIVE_SECONDS),
            "connect_every": (60, 7 * 86400),
            "control_keep_alive_seconds": (5, 65535),
            "token_seconds": (300, 365 * 86400),
            "reconcile_seconds": (1, 7 * 86400),
            "probation_seconds": (0, 7 * 86400),
            "probe_seconds": (1, 3600),
            "stall_seconds": (1, 3600),
            "startup_spread_seconds": (0, 3600),
            "bytes_per_day": (0, MAX_INTEGER),
            "bytes_per_month": (0, MAX_INTEGER),
            "rate_limit": (1, MAX_INTEGER),
            "site_cache_bytes": (1024 * 1024, MAX_INTEGER),
        }
        for key, (lowest, highest) in limits.items():
            value = getattr(self, key)
            if value is not None and not lowest <= value <= highest:
                raise UsageError(f"the setting {key} = {value} is out of range; use {lowest} to {highest}.")
        try:
            if self.origin is not None:
                check_origin(self.origin)
            _ = self.policy
            if self.proxy is not None:
                _check_proxy(self.proxy)
            self._check_site()
            if self.log_format not in LOG_FORMATS:
                raise ValueError(f"log_format = {self.log_format!r:.40} is none of {', '.join(LOG_FORMATS)}.")
            self._check_capabilities()
            self._check_control()
        except ValueError as error:
            raise UsageError(f"a setting is wrong: {error}") from error

    def _check_site(self) -> None:
        check_site_name(self.site_name)
        if self.site_address is not None:
            parse_listening(self.site_address)
        for peer in self.site_peers:
            if not is_peer(peer):
                raise ValueError(f"site_peers holds {peer!r:.60}, which is not of the form host:port.")
        if self.site_role not in ("neighbour", "gateway"):
            raise ValueError(f"site_role = {self.site_role!r:.40} is neither neighbour nor gateway.")
        keys = [self.site_cert, self.site_key, self.site_ca]
        if any(keys) and not all(keys):
            raise ValueError("site_cert, site_key and site_ca belong together: set all or none.")
        others = self.site_peers or any(keys) or self.site_role != "neighbour" or self.site_discover
        if others and self.site_address is None:
            raise ValueError("a site needs site_address, where this device serves its neighbours, as 0.0.0.0:8444.")
        if self.site_discover and ":" in parse_listening(self.site_address or "")[0]:
            raise ValueError("site_discover finds neighbours by IPv4 only: give an IPv4 site_address, or name them.")

    def _check_capabilities(self) -> None:
        if self.capabilities_has:
            from modelsync_protocol.requirements.capabilities import pair  # only devices that are told carry it

            for word in self.capabilities_has:
                pair(word)
        if self.capabilities_unknown not in ("take", "refuse"):
            raise ValueError(f"capabilities_unknown = {self.capabilities_unknown!r:.40} is neither take nor refuse.")

    def _check_control(self) -> None:
        for key, allowed in _CONTROL.items():
            if (value := getattr(self, key)) not in allowed:
                raise ValueError(f"{key} = {value!r:.40} is none of {', '.join(allowed)}.")
        if self.control_kind == "iothub":
            for key in ("control_url", "control_device", "control_user", "control_password_file"):
                if getattr(self, key) is not None:
                    raise ValueError(f'{key} belongs to a broker: set control_kind = "mqtt" or "aws".')
            if self.control_client == "own" and (self.edge or self.dps_scope):
                raise ValueError('control_client = "own" takes a connection string: edge and dps_scope need "sdk".')
            return
        if self.control_client != "sdk":
            raise ValueError("control_client is a choice for IoT Hub only.")
        if self.control_jobs and self.control_kind != "aws":
            raise ValueError('control_jobs are those of AWS IoT: they need control_kind = "aws".')
        if any((self.connection_string, self.connection_string_file, self.edge, self.dps_scope)):
            raise ValueError("a device follows one control plane: a broker's url or IoT Hub's identity.")
        if self.control_url is None or not self.broker_device:
            raise ValueError(
                "a broker needs control_url, as mqtts://broker:8883, and control_device, this device's id."
            )
        from modelsync_protocol.mqtt import broker  # only devices of a broker carry it

        check_broker(self.control_url)
        broker.check_prefix(self.control_topic)
        broker.check_device(self.broker_device)

    @property
    def broker_device(self) -> str:
        """This device's id on a broker, which is its client id too."""
        return self.control_device or self.control_user or ""

    @property
    def policy(self) -> Policy:
        """The local limits, in the twin's form."""
        return Policy(
            bytes_per_day=self.bytes_per_day,
            bytes_per_month=self.bytes_per_month,
            rate_limit=self.rate_limit,
            windows=tuple(parse_window(text) for text in self.windows),
            networks=self.networks,
        )

    def chosen_by_twin(self, name: str) -> frozenset[str]:
        """Labels in `consumers` that the twin may choose for model `name`."""
        table = self.models.values.get(name) if self.models else None
        labels = table.get("twin_activation") if isinstance(table, Mapping) else None
        return frozenset(map(str, labels)) if isinstance(labels, list) else frozenset()

    @property
    def has_hub(self) -> bool:
        """Whether there is a control plane to connect to."""
        named = self.connection_string or self.connection_string_file or self.edge or self.dps_scope
        return bool(named or self.control_url)

    def read_connection_string(self) -> str | None:
        """The device's connection string, without line ends; read anew each time, so that it may be rotated.

        Raises UsageError if the file can't be read or a part is lacking.
        """
        text = self.connection_string
        if self.connection_string_file is not None:
            text = read_text(self.connection_string_file, "connection_string_file").strip()
        if text is not None:
            keys = {part.partition("=")[0] for part in text.split(";")}
            proof = set() if self.x509_cert else {"SharedAccessKey"}
            lacking = sorted(({"HostName", "DeviceId"} | proof) - keys)
            if lacking:
                raise UsageError(f"the hub's connection string lacks {', '.join(lacking)}; copy it anew.")
        return text

    def read_dps_key(self) -> str:
        """The enrolment's symmetric key, base64; UsageError if its file can't be read."""
        return "" if self.dps_key_file is None else read_text(self.dps_key_file, "dps_key_file").strip()

    def read_control_password(self) -> str | None:
        """The broker's password, read anew each time, so that it may be rotated; UsageError if it can't be read."""
        path = self.control_password_file
        return None if path is None else read_text(path, "control_password_file").rstrip("\r\n")

    def read_ca(self) -> str | None:
        """PEM text that the hub's certificate is checked against, or None for the system's."""
        return None if self.ca is None else read_text(self.ca, "ca")


def _check_proxy(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.port is None or parts.path.strip("/"):
        raise ValueError("proxy is not of the form http://[user:password@]host:port.")


def check_broker(url: str) -> SplitResult:
    """A broker's URL in its parts; ValueError, which never repeats a password."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in BROKER_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or (parts.scheme.startswith("mqtt") and parts.path.strip("/")):
        raise ValueError("control_url is not of the form mqtts://host:8883, mqtt://host:1883 or wss://host/mqtt.")
    if parts.username is not None:
        raise ValueError("control_url holds a user: use control_user and control_password_file.")
    return parts


def parse_listening(text: str) -> tuple[str, int]:
    """Host and port of site_address; ValueError."""
    import ipaddress  # only devices of a site carry it

    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = ""
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"site_address = {text!r:.60} is not of the form ip:port, such as 0.0.0.0:8444.")
    return host, int(port)


def read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path} ({what}) can't be read: {reason}.") from error


SETTINGS = tuple(item.name for item in fields(Settings))
"""Names of all settings, in the order of the documentation."""
