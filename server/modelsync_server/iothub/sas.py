"""Shared access signatures: makes and checks them. No I/O and no clock of its own here.

Form: `SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={policy}]`, where the signature is
the HMAC-SHA256 of `{url-encoded resource}\\n{expiry}` under the base64-decoded key
(learn.microsoft.com/azure/iot-hub/authenticate-authorize-sas).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

_PREFIX = "SharedAccessSignature "


class SasError(Exception):
    """A token that is malformed, expired, signed with another key or made for something else."""


@dataclass(frozen=True, slots=True)
class SasToken:
    """A parsed token; `signed_resource` is the encoded form that was signed, `expiry` seconds since 1970."""

    signed_resource: str
    signature: bytes
    expiry: int
    policy: str | None = None

    @property
    def resource(self) -> str:
        return unquote(self.signed_resource)


def sign(key: str, resource: str, expiry: int, policy: str | None = None) -> str:
    """Return a token for `resource` (not encoded) until `expiry` (seconds since 1970), signed with a base64 key."""
    encoded = quote(resource, safe="")
    signature = quote(base64.b64encode(_mac(key, encoded, expiry)).decode(), safe="")
    token = f"{_PREFIX}sr={encoded}&sig={signature}&se={expiry}"
    return token if policy is None else f"{token}&skn={quote(policy, safe='')}"


def parse(token: str) -> SasToken:
    """Read a token's text; raise SasError if it has not the form."""
    if not token.startswith(_PREFIX):
        raise SasError("it is no SharedAccessSignature")
    fields = dict(part.partition("=")[::2] for part in token.removeprefix(_PREFIX).split("&"))
    if not {"sr", "sig", "se"} <= fields.keys():
        raise SasError("sr, sig or se is missing")
    try:
        signature = base64.b64decode(unquote(fields["sig"]), validate=True)
        expiry = int(fields["se"])
    except (ValueError, binascii.Error) as error:
        raise SasError("sig or se can't be read") from error
    return SasToken(fields["sr"], signature, expiry, unquote(fields["skn"]) if "skn" in fields else None)


def check(token: SasToken, keys: Iterable[str], resources: Iterable[str], now: float) -> None:
    """Raise SasError unless one of the `keys` signed the token for one of the `resources` and it has not expired."""
    if token.expiry <= now:
        raise SasError("it has expired")
    if token.resource.lower() not in {resource.lower() for resource in resources}:
        raise SasError("it was made for another resource")
    if not any(hmac.compare_digest(_mac(key, token.signed_resource, token.expiry), token.signature) for key in keys):
        raise SasError("its signature is wrong")


def hmac_sha256(key: str, data: bytes) -> bytes:
    """HMAC-SHA256 of `data` under a base64 key; raise SasError if the key is not base64."""
    try:
        return hmac.new(base64.b64decode(key, validate=True), data, hashlib.sha256).digest()
    except (ValueError, binascii.Error) as error:
        raise SasError("the key is not base64") from error


def _mac(key: str, encoded_resource: str, expiry: int) -> bytes:
    return hmac_sha256(key, f"{encoded_resource}\n{expiry}".encode())
