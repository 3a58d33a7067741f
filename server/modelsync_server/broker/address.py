"""Where an operator's broker is: a URL as `mqtts://user:password@broker:8883/PREFIX?ca=FILE`. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from modelsync_protocol.errors import UsageError
from modelsync_protocol.mqtt import broker

_PORTS = {"mqtts": 8883, "mqtt": 1883, "aws": 8883}
_FILES = ("ca", "cert", "key")
FORM = "mqtts://[user:password@]broker[:8883][/PREFIX][?ca=FILE&cert=FILE&key=FILE]"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """`prefix`: what all topics begin with; for AWS the shadow's name. Files are PEM."""

    host: str
    port: int
    tls: bool
    aws: bool
    prefix: str
    user: str | None
    password: str | None
    ca: str | None
    cert: str | None
    key: str | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def is_broker(service: str) -> bool:
    """Whether a service is named by a broker's URL rather than as an IoT hub."""
    return service.strip().partition("://")[0] in _PORTS and "://" in service


def parse(url: str) -> BrokerAddress:
    """Read the URL; UsageError, which never repeats a password."""
    parts = urlsplit(url.strip())
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    try:
        port = parts.port
    except ValueError:
        port = 0
    unknown = sorted(options.keys() - set(_FILES))
    if port == 0 or not parts.hostname or parts.fragment or unknown:
        what = f"{unknown[0]!r:.40} is no option of it" if unknown else "this is not a broker's URL"
        raise UsageError(f"{what}; it looks like {FORM}.")
    if bool(options.get("cert")) != bool(options.get("key")):
        raise UsageError("cert and key belong together: give both, or none.")
    return BrokerAddress(
        parts.hostname,
        port or _PORTS[parts.scheme],
        parts.scheme != "mqtt",
        parts.scheme == "aws",
        broker.check_prefix(unquote(parts.path.strip("/")) or broker.PREFIX),
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        *(options.get(name) or None for name in _FILES),
    )
