"""Twin documents: merge patches, metadata, versions and IoT Hub's limits. Pure: no I/O, no clock here.

Source: learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins (format and size) and RFC 7396.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from typing import Any

from modelsync_server.iothub.errors import HubError, argument_invalid

MAX_SECTION_BYTES = 32 * 1024
"""Desired or reported properties, bytes as IoT Hub counts them (see `size`)."""
MAX_TAGS_BYTES = 8 * 1024
MAX_VALUE_BYTES = 4 * 1024
"""One string value, UTF-8 bytes."""
MAX_KEY_BYTES = 1024
MAX_DEPTH = 10
MAX_INTEGER = 2**52 - 1
MIN_INTEGER = -(2**52)
MAX_BODY_BYTES = 512 * 1024
"""A JSON body before it is parsed, bytes."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """One half of a twin (desired or reported) with its metadata; values are replaced, never changed in place."""

    values: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    version: int = 1

    def for_device(self) -> Json:
        """The section as the device's GET answers it: values and `$version`."""
        return {**self.values, "$version": self.version}

    def for_service(self) -> Json:
        """The section as REST answers it: values, `$metadata` and `$version`."""
        return {**self.values, "$metadata": self.metadata, "$version": self.version}


def parse_object(body: bytes) -> Json:
    """Parse a JSON object; raise HubError 400 if it is anything else."""
    if len(body) > MAX_BODY_BYTES:
        raise HubError(413001, "MessageTooLarge", f"the body has {len(body)} bytes; the limit is {MAX_BODY_BYTES}.")
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HubError(400006, "IotHubFormatError", f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise HubError(400006, "IotHubFormatError", "the body is not a JSON object.")
    return value


def patched(section: Section, patch: Json, now: str, *, name: str) -> Section:
    """Merge `patch` (RFC 7396: null deletes) into a section; the version rises by one; limits raise HubError 400."""
    check_patch(patch, name)
    values, metadata = copy.deepcopy(section.values), copy.deepcopy(section.metadata)
    _merge(values, metadata, patch, now)
    if size(values) > MAX_SECTION_BYTES:
        raise argument_invalid(f"{name} would have {size(values)} bytes; the limit is {MAX_SECTION_BYTES}.")
    if depth(values) > MAX_DEPTH:
        raise argument_invalid(f"{name} would nest deeper than {MAX_DEPTH} levels.")
    return replace(section, values=values, metadata=metadata, version=section.version + 1)


def replaced(section: Section, values: Json, now: str, *, name: str) -> Section:
    """Replace a section's values as a whole (REST PUT)."""
    return patched(Section(version=section.version), values, now, name=name)


def merged_tags(tags: Json, patch: Json) -> Json:
    """Merge `patch` into tags; limits raise HubError 400."""
    check_patch(patch, "tags")
    values = copy.deepcopy(tags)
    _merge(values, {}, patch, "")
    if size(values) > MAX_TAGS_BYTES:
        raise argument_invalid(f"tags would have {size(values)} bytes; the limit is {MAX_TAGS_BYTES}.")
    return values


def service_patch(section: object, name: str) -> Json:
    """The patch inside a service request, without the read-only `$version` and `$metadata`."""
    if not isinstance(section, dict):
        raise argument_invalid(f"{name} is not a JSON object.")
    return {key: value for key, value in section.items() if key not in ("$version", "$metadata")}


def check_patch(value: object, path: str, level: int = 0) -> None:
    """Raise HubError 400 unless every key and value is allowed in a twin."""
    if isinstance(value, dict):
        if level > MAX_DEPTH:
            raise argument_invalid(f"{path} nests deeper than {MAX_DEPTH} levels.")
        for key, item in value.items():
            _check_key(key, path)
            check_patch(item, f"{path}.{key}", level + 1)
    elif isinstance(value, list):
        if level > MAX_DEPTH:
            raise argument_invalid(f"{path} nests deeper than {MAX_DEPTH} levels.")
        for item in value:
            check_patch(item, path, level + 1)
    elif isinstance(value, str):
        if len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES:
            raise argument_invalid(f"{path} is longer than {MAX_VALUE_BYTES} bytes.")
    elif type(value) is int and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise argument_invalid(f"{path} is an integer beyond {MAX_INTEGER}.")


def _check_key(key: str, path: str) -> None:
    raw = len(key.encode("utf-8", "surrogatepass"))
    bad = any(c in ".$ " or ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in key)
    if not key or raw > MAX_KEY_BYTES or bad:
        raise argument_invalid(
            f"{path} has a key that is empty, longer than {MAX_KEY_BYTES} bytes, or holds '.', '$', a blank "
            "or a control character."
        )


def size(value: object) -> int:
    """Bytes of a value as IoT Hub counts: keys and strings in UTF-8, numbers 8, booleans 4, containers their sum."""
    if isinstance(value, dict):
        return sum(len(key.encode("utf-8", "surrogatepass")) + size(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(size(item) for item in value)
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    return 4 if isinstance(value, bool) or value is None else 8


def depth(value: object) -> int:
    """Levels of containers below the section itself: `{"a": 1}` has 0, `{"a": {"b": 1}}` has 1."""
    inner: list[object] = []
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    return max((1 + depth(item) for item in inner if isinstance(item, dict | list)), default=0)


def _merge(values: Json, metadata: Json, patch: Json, now: str) -> None:
    for key, item in patch.items():
        if item is None:
            values.pop(key, None)
            metadata.pop(key, None)
        elif isinstance(item, dict):
            if not isinstance(values.get(key), dict):
                values[key], metadata[key] = {}, {}
            _merge(values[key], metadata.setdefault(key, {}), item, now)
        else:
            values[key] = item
            metadata[key] = {"$lastUpdated": now}
    metadata["$lastUpdated"] = now


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
