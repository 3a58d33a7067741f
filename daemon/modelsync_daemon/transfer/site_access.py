"""How a device reaches its neighbours, as a worker is told: addresses, name, keys, quota. No requests here."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelsync_protocol.errors import UsageError


@dataclass(frozen=True, slots=True)
class SiteAccess:
    """`me` and `peers` are addresses `ip:port`, `me` is where this device serves. `folder` holds what is kept for
    neighbours, `quota` bytes of it. With `ca`, `cert` and `key` (paths of PEM files) all of it goes over mutual TLS.
    `fresh`: take nothing from neighbours that changes in a store. `refused`: objects, as neighbours call them, and who
    is not to be asked for each.
    """

    name: str
    me: str
    peers: tuple[str, ...]
    folder: str
    quota: int
    cert: str = ""
    key: str = ""
    ca: str = ""
    fresh: bool = False
    refused: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> SiteAccess:
        """The reverse of `document`."""
        return cls(**{**document, "peers": tuple(document["peers"])})

    @property
    def files(self) -> list[Path]:
        """What has to be readable."""
        return [Path(name) for name in (self.cert, self.key, self.ca) if name]

    def fingerprint(self) -> str:
        """SHA-256 of the site's CA certificate (DER), hex; empty without TLS. UsageError."""
        if not self.ca:
            return ""
        try:
            der = ssl.PEM_cert_to_DER_cert(Path(self.ca).read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.ca} (site_ca) is not a PEM file of one certificate.") from error
        return hashlib.sha256(der).hexdigest()

    @property
    def port(self) -> int:
        """Where this device serves."""
        return int(self.me.rpartition(":")[2])

    def client_context(self) -> ssl.SSLContext | None:
        """For connections to neighbours; None without TLS. UsageError.

        Names don't count: who has a certificate of the site's CA is of the site.
        """
        return None if not self.ca else _context(ssl.PROTOCOL_TLS_CLIENT, self.ca, self.cert, self.key)

    def server_context(self, *, children: bool = False) -> ssl.SSLContext | None:
        """For connections of neighbours, who have to show the site's certificate too. UsageError.

        `children`: whoever comes without one is let in, but is no neighbour (see site/server.py).
        """
        if not self.ca:
            return None
        context = _context(ssl.PROTOCOL_TLS_SERVER, self.ca, self.cert, self.key)
        if children:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _context(protocol: int, ca: str, cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=ca)
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the site's keys can't be used ({error}); check site_ca, site_cert and site_key.") from error
    return context
