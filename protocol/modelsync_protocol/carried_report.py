"""A device's report that somebody carries to the hub: what it says, and its signature with the device's hub key.

A JSON Web Signature in compact form (RFC 7515) with HMAC-SHA256 (RFC 7518 §3.2), whose key is the symmetric key that
the hub's registry has. No I/O, no clock here. FORMAT.md §18.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import caps, trust
from modelsync_protocol.errors import FormatError, RefusedError, UsageError

FORMAT = 1

_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"modelsync-report"}').rstrip(b"=")
"""One spelling only: no other algorithm, `none` least of all, is read."""

_MAX_ID = 128
_KEYS = {"format", "hub", "device", "module", "sequence", "issued", "reported"}


@dataclass(frozen=True, slots=True)
class Report:
    """`reported`, the twin's half, of a `device` (and its `module`) of the hub of host name `hub`; number `sequence`,
    made at `issued` (as in metadata) by the device's clock."""

    hub: str
    device: str
    module: str | None
    sequence: int
    issued: str
    reported: Mapping[str, Any]


def sign(report: Report, key: str) -> bytes:
    """The report's file, signed with the device's `key` (base64). UsageError if that is none."""
    document = {"format": FORMAT, **{name: getattr(report, name) for name in sorted(_KEYS - {"format"})}}
    payload = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    signed = _HEADER + b"." + base64.urlsafe_b64encode(payload).rstrip(b"=")
    return signed + b"." + base64.urlsafe_b64encode(_mac(signed, key)).rstrip(b"=") + b"\n"


def decode(data: bytes) -> Report:
    """What a report says, believed or not: whose key to `check` it with. FormatError."""
    _, payload, _ = _parts(data)
    try:
        document = json.loads(payload, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "this report's content is not JSON; write it again with `modelsyncd export-report`."
        ) from error
    if isinstance(document, dict) and document.get("format", FORMAT) != FORMAT:
        raise FormatError(f"this report has format {document['format']!r:.20}; this program reads {FORMAT}: update it.")
    texts = ("hub", "device", "issued")
    if (
        not isinstance(document, dict)
        or document.keys() != _KEYS
        or not all(isinstance(document[name], str) and 0 < len(document[name]) <= _MAX_ID for name in texts)
        or not (document["module"] is None or (isinstance(document["module"], str) and document["module"]))
        or type(document["sequence"]) is not int
        or not 0 < document["sequence"] <= caps.MAX_VERSION
        or not isinstance(document["reported"], dict)
    ):
        raise FormatError("this report lacks what a report has; write it again with `modelsyncd export-report`.")
    trust.parse_time(document["issued"])
    return Report(**{name: document[name] for name in _KEYS - {"format"}})


def check(data: bytes, keys: Iterable[str]) -> Report:
    """The report, if it is signed with one of `keys` (base64); RefusedError, FormatError."""
    signed, _, mac = _parts(data)
    if not any(hmac.compare_digest(mac, _mac(signed, key)) for key in keys):
        raise RefusedError(
            "this report is not signed with that device's key: it was changed on its way, or comes from another device."
        )
    return decode(data)


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What was signed, the payload, and the signature."""
    if len(data) > caps.MAX_REPORT_BYTES:
        raise FormatError(f"this report has more than {caps.MAX_REPORT_BYTES} bytes; no device writes such.")
    parts = data.removesuffix(b"\n").split(b".")
    if len(parts) != 3 or parts[0] != _HEADER:
        raise FormatError("this file is no report of `modelsyncd export-report`.")
    return b".".join(parts[:2]), _plain(parts[1]), _plain(parts[2])


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _plain(text: bytes) -> bytes:
    try:
        found = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if base64.urlsafe_b64encode(found).rstrip(b"=") != text:
        raise FormatError("this report is damaged; copy it again.")
    return found


def _mac(signed: bytes, key: str) -> bytes:
    try:
        secret = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("the device's key is not base64; copy it anew.") from error
    return hmac.new(secret, signed, hashlib.sha256).digest()
