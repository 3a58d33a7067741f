"""The twin on a plain MQTT broker: its topics and documents, and which desired properties are newer. No I/O here.

Below PREFIX/DEVICE/ lie, retained: `desired` (the whole document with its `$version`), `tags`, `presence`, and the
reported half in sections, so that a report carries only what changed: `reported/models/NAME`, `reported/daemon` and so
on. Not retained: `call/METHOD/ID` and the device's `answer/ID`. An empty payload deletes (MQTT 3.1.1, 3.3.1.3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_protocol.twin import MAX_INTEGER, SECTION

PREFIX = "modelsync"
DESIRED, TAGS, PRESENCE, REPORTED, CALL, ANSWER = "desired", "tags", "presence", "reported", "call", "answer"
_MODELS = "models"
_LEVEL = re.compile(r"[^/+#\x00-\x1f\x7f$][^/+#\x00-\x1f\x7f]{0,127}")
_CALL_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
MAX_DEPTH = 32
"""Of a document, so that nothing is recursed into without end."""

Json = dict[str, Any]


def check_device(name: str) -> str:
    """Return a device's id if it can be a level of a topic, else raise UsageError."""
    if not _LEVEL.fullmatch(name):
        raise UsageError(
            f"{name!r:.140} can't be a device's id on a broker: use up to 128 characters, no / + # and no leading $."
        )
    return name


def check_prefix(prefix: str) -> str:
    """Return what all topics begin with, one or more levels, else raise UsageError."""
    if not all(_LEVEL.fullmatch(level) for level in prefix.split("/")):
        raise UsageError(f"{prefix!r:.140} can't begin a topic: use levels such as site7/modelsync, without + and #.")
    return prefix


@dataclass(frozen=True, slots=True)
class Topics:
    """A device's topics."""

    prefix: str
    device: str

    @property
    def root(self) -> str:
        """What they begin with, without a trailing slash."""
        return f"{self.prefix}/{self.device}"

    def of(self, *levels: str) -> str:
        """A topic below the root."""
        return "/".join((self.root, *levels))

    def under(self, topic: str) -> str | None:
        """What follows the root; None for another device's topic."""
        return topic.removeprefix(f"{self.root}/") if topic.startswith(f"{self.root}/") else None


def encode(document: object) -> bytes:
    """A payload: JSON without blanks."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def decode(payload: bytes) -> Any:
    """What a payload holds. Raises ValueError with a piece of a sentence."""
    try:
        value = json.loads(payload)
    except RecursionError as error:
        raise ValueError("nests too deep") from error
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from error
    _check_depth(value, 0)
    return value


def _check_depth(value: object, level: int) -> None:
    if level > MAX_DEPTH:
        raise ValueError("nests too deep")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(item, level + 1)


def decode_desired(payload: bytes) -> Json:
    """A desired document; empty without a payload. Raises ValueError with a piece of a sentence."""
    if not payload:
        return {}
    value = decode(payload)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    version = value.get("$version")
    if version is not None and (type(version) is not int or not 0 <= version <= MAX_INTEGER):
        raise ValueError(f"has a $version that is no whole number up to {MAX_INTEGER}")
    return value


def version_of(document: Mapping[str, Any]) -> int | None:
    """A document's `$version`; None of one that somebody wrote by hand."""
    version = document.get("$version")
    return version if type(version) is int else None


def overtaken(known: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether `found` is older than what is `known`. Of equal versions, and without one, the broker's order counts."""
    before, after = version_of(known), version_of(found)
    return before is not None and after is not None and after < before


def next_version(seen: int | None, now: float) -> int:
    """The `$version` of the next desired document: above all that was `seen`, and never below the clock (seconds since
    1970), so that a broker that lost everything does not begin again below what its devices have followed."""
    return min(MAX_INTEGER, max((seen or 0) + 1, int(now)))


def sections(reported: Mapping[str, Any]) -> dict[str, Any]:
    """The reported half, cut: path below `reported/` to value."""
    section = reported.get(SECTION)
    found: dict[str, Any] = {}
    for key, value in section.items() if isinstance(section, Mapping) else ():
        if key == _MODELS and isinstance(value, Mapping):
            found |= {f"{_MODELS}/{name}": model for name, model in value.items() if _LEVEL.fullmatch(name)}
        elif _LEVEL.fullmatch(key):
            found[key] = value
    return found


def joined(parts: Mapping[str, bytes]) -> Json:
    """The reported half from its sections' payloads. What can't be read is left out: its device sends it anew."""
    section: Json = {}
    for path, payload in parts.items():
        key, slash, name = path.partition("/")
        try:
            value = decode(payload)
        except ValueError:
            continue
        if slash and key == _MODELS and "/" not in name:
            section.setdefault(_MODELS, {})[name] = value
        elif not slash and key != _MODELS:
            section[key] = value
    return {SECTION: section} if section else {}


def parse_call(path: str) -> tuple[str, str] | None:
    """Method and id of a path `call/METHOD/ID`; None if it is none."""
    word, _, rest = path.partition("/")
    method, _, number = rest.partition("/")
    return (method, number) if word == CALL and method and _CALL_ID.fullmatch(number) else None
