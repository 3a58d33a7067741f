"""AWS Signature Version 4, in headers: what proves to S3 (and what speaks it) who asks. No I/O, no clock.

Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)".
The secret key itself never travels. Imported only where such keys are configured.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from modelsync_protocol.errors import UsageError

UNSIGNED = "UNSIGNED-PAYLOAD"
"""Stands for a body's digest where there is none worth signing: TLS guards the request."""

KEY = "aws4"
"""The one key of the JSON form: {"aws4": {"key", "secret", "region"}}, with "token" and "expires" for a session."""

_FIELDS = {
    "key": re.compile(r"[A-Za-z0-9_-]{3,128}"),
    "secret": re.compile(r"[!-~]{3,256}"),
    "region": re.compile(r"[a-z0-9-]{1,32}"),
    "token": re.compile(r"[A-Za-z0-9+/=_.:%-]{1,3072}"),
    "expires": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
}
_OPTIONAL = ("token", "expires")
_SAFE = "-_.~"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An access key, long-lived or of a session (`token`, and `expires` as YYYY-MM-DDThh:mm:ssZ). `repr` hides it."""

    key: str
    secret: str
    region: str
    token: str = ""
    expires: str = ""

    def __repr__(self) -> str:
        return f"SigningKey({self.key[:4]}…)"

    @classmethod
    def parse(cls, document: Any) -> SigningKey:
        """Read what stands under `aws4`; UsageError, which repeats nothing of it. Unknown fields are kept out."""
        fields = dict(document) if isinstance(document, dict) else {}
        found = {name: fields.get(name, "") for name in _FIELDS}
        for name, value in found.items():
            if not isinstance(value, str) or not (_FIELDS[name].fullmatch(value) or (name in _OPTIONAL and not value)):
                raise UsageError(
                    'the secret is no access key: give {"aws4": {"key", "secret", "region"}}, and "token" and '
                    f'"expires" (YYYY-MM-DDThh:mm:ssZ) if it is of a session; {name!r} is wrong.'
                )
        return cls(**found)

    def document(self) -> str:
        """The JSON form, which `parse` reads."""
        fields = {name: getattr(self, name) for name in _FIELDS if getattr(self, name)}
        return json.dumps({KEY: fields}, separators=(",", ":"))


def sign(
    key: SigningKey,
    method: str,
    host: str,
    target: str,
    moment: datetime,
    *,
    service: str = "s3",
    digest: str = UNSIGNED,
) -> dict[str, str]:
    """The headers to add to a request at `moment` (UTC; services allow 15 minutes of difference).

    `host` is the Host header as it is sent, `target` the path with query as on the request line. `digest`: SHA-256 of
    the body in hex. Headers that are not signed (Range, If-Range) may be added.
    """
    stamp = moment.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    if key.token:
        headers["x-amz-security-token"] = key.token
    names = ";".join(sorted(headers))
    path, _, query = target.partition("?")
    canonical = "\n".join(
        (
            method,
            quote(unquote(path), safe="/" + _SAFE) or "/",
            _canonical_query(query),
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            names,
            digest,
        )
    )
    scope = f"{stamp[:8]}/{key.region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    secret = b"AWS4" + key.secret.encode()
    for part in (stamp[:8], key.region, service, "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    del headers["host"]
    # Without blanks after the commas, which is allowed too: each byte is paid for with each request.
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.key}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return headers


def _canonical_query(query: str) -> str:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return "&".join(
        sorted(f"{quote(unquote(name), safe=_SAFE)}={quote(unquote(value), safe=_SAFE)}" for name, _, value in pairs)
    )
