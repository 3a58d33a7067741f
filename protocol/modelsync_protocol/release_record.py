"""The release record: when a version was published, and what its publisher says about it. No I/O here.

Canonical JSON as everywhere, which has no fractions: a number that is no small integer is written as
`{"decimal": "0.93"}`, so that it comes back as a number with the digits that it had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from numbers import Integral, Real
from typing import Any

from modelsync_protocol import canonical, caps, trust
from modelsync_protocol.errors import FormatError, UsageError

FORMAT = 1

TEXT_KEYS = ("author", "commit", "run", "licence", "description")
"""Keys whose value is text. What they mean is said in FORMAT.md §12.3; all other keys are the publisher's own."""

METRICS = "metrics"
"""The key whose value is an object of numbers or texts."""

SOURCE = "source"
"""The key under which a publisher that fetched a version from somewhere says from where (FORMAT.md §12.3)."""

_DECIMAL = "decimal"
_NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
_MAX_DEPTH = 16
_MAX_SAFE = 2**53 - 1


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """`published` (UTC, whole seconds) and `metadata`: JSON values; numbers are int or float."""

    published: datetime
    metadata: Mapping[str, Any]


def encode(record: ReleaseRecord) -> bytes:
    """The record's bytes, whose SHA-256 names it; UsageError says which value can't be written and why."""
    metadata = _written(record.metadata, "the metadata", 0)
    if not isinstance(metadata, dict) or _DECIMAL in metadata:
        raise UsageError("metadata is an object of keys and values: give a JSON object.")
    _check_known(record.metadata)
    try:
        data = canonical.encode(
            {"format": FORMAT, "metadata": metadata, "published": trust.format_time(record.published)}
        )
    except FormatError as error:
        raise UsageError(f"the metadata can't be written: {error}") from error
    if len(data) > caps.MAX_RELEASE_RECORD_BYTES:
        limit = caps.MAX_RELEASE_RECORD_BYTES // caps.KIB
        raise UsageError(f"the metadata has {len(data)} bytes; at most {limit} KiB are allowed: give a link instead.")
    return data


def decode(data: bytes, digest: str | None = None) -> ReleaseRecord:
    """Read a record; FormatError if it is none, or if its SHA-256 is not `digest`."""
    if len(data) > caps.MAX_RELEASE_RECORD_BYTES:
        raise FormatError(f"a release record of {len(data)} bytes is not allowed.")
    if digest is not None and canonical.digest(data) != digest:
        raise FormatError("a release record has another digest than the signed one.")
    document = canonical.decode(data, what="a release record", limit=caps.MAX_RELEASE_RECORD_BYTES)
    match document:
        case {"format": 1, "metadata": dict(metadata), "published": published} if len(document) == 3:
            return ReleaseRecord(trust.parse_time(published), {key: _read(metadata[key], 1) for key in metadata})
        case {"format": int(version)} if version != FORMAT:
            raise FormatError(f"a release record has format {version}; this program reads format {FORMAT}.")
    raise FormatError("a release record lacks format, metadata or published, or has more than these.")


def _written(value: object, where: str, depth: int) -> Any:
    """`value` as canonical JSON has it; numbers of other libraries (NumPy's) are taken by what they are."""
    if depth > _MAX_DEPTH:
        raise UsageError(f"{where} is nested more than {_MAX_DEPTH} deep: flatten it.")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UsageError(f"{where} has the key {key!r:.40}, which is no text: use text as key.")
        return {key: _written(item, _inside(where, key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_written(item, where, depth + 1) for item in value]
    return _number(value, where)


def _number(value: object, where: str) -> Any:
    if isinstance(value, Integral):
        whole = int(value)
        return whole if abs(whole) <= _MAX_SAFE else {_DECIMAL: str(whole)}
    if isinstance(value, Fraction):
        value = float(value)
    if isinstance(value, Real | Decimal):
        text = str(value)  # the shortest that reads back, of NumPy's narrow floats too
        if not isfinite(value) or not _NUMBER.fullmatch(text):
            raise UsageError(f"{where} is {text}, which JSON has no number for: leave it out or give it as text.")
        return {_DECIMAL: text}
    raise UsageError(
        f"{where} is of type {type(value).__name__}: give text, numbers, true, false, null, lists and objects of these."
    )


def _inside(where: str, key: str) -> str:
    return f"{key!r:.60}" if where == "the metadata" else f"{where}: {key!r:.60}"


def _check_known(metadata: Mapping[str, Any]) -> None:
    for key in TEXT_KEYS:
        if not isinstance(metadata.get(key, ""), str):
            raise UsageError(f"{key!r} in the metadata is text; give other things under another key.")
    metrics = metadata.get(METRICS, {})
    if not isinstance(metrics, Mapping):
        raise UsageError("'metrics' in the metadata is an object such as {\"auc\": 0.93}.")


def _read(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH + 1:
        raise FormatError("a release record is nested too deep.")
    if isinstance(value, list):
        return [_read(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {_DECIMAL}:
        return {key: _read(item, depth + 1) for key, item in value.items()}
    text = value[_DECIMAL]
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise FormatError(f"{text!r:.40} in a release record is no decimal number.")
    if "." in text or "e" in text or "E" in text:
        number = float(text)
        if not isfinite(number):
            raise FormatError(f"{text:.40} in a release record is no number that fits.")
        return number
    return int(text)
