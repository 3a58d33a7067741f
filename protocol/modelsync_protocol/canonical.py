"""Canonical JSON (RFC 8785, no floats) and its strict reading. No I/O here."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import rfc8785

from modelsync_protocol.errors import FormatError

_MAX_INTEGER = 2**53 - 1


def encode(value: Any) -> bytes:
    """Return the RFC 8785 form of `value`; raise FormatError if it holds floats or is not JSON."""
    _no_floats(value)
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise FormatError(f"this value has no canonical JSON form: {error}.") from error


def string(text: str) -> bytes:
    """`encode` of a string: the standard library escapes what RFC 8785 does, in C. FormatError for lone surrogates."""
    try:
        return json.encoder.encode_basestring(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"this value has no canonical JSON form: {error}.") from error


def decode(data: bytes, *, what: str, limit: int) -> Any:
    """Read JSON of at most `limit` bytes; duplicate keys, floats, NaN and integers over 2^53 - 1 raise FormatError."""
    if len(data) > limit:
        raise FormatError(f"{what} has {len(data)} bytes; the limit is {limit}.")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_refuse,
            parse_constant=_refuse,
            parse_int=_bounded,
        )
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}.") from error


def check_structure(data: bytes, *, what: str, lists: int, items: int) -> None:
    """Refuse JSON text with more brackets than `lists` or more commas than `items`, in strings or not.

    An empty list is thirty times larger in memory than as text, so a limit on the text's length bounds little.
    """
    if data.count(b"[") + data.count(b"{") > lists or data.count(b",") > items:
        raise FormatError(f"{what} has more parts than allowed.")


def digest(data: bytes) -> str:
    """SHA-256 of `data` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FormatError("a JSON object has the same key twice.")
    return result


def _refuse(text: str) -> Any:
    raise FormatError(f"the number {text:.40} is not an integer.")


def _bounded(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > _MAX_INTEGER:
        raise FormatError(f"the integer {text:.40} is beyond 2^53 - 1.")
    return int(text)


def _no_floats(value: Any) -> None:
    if isinstance(value, float):
        raise FormatError(f"canonical JSON here has no floats; write {value!r} as a string.")
    if isinstance(value, dict):
        for item in value.values():
            _no_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _no_floats(item)
