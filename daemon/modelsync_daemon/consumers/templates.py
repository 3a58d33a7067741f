"""What an application is told of a version, and texts with places for it, as `{path}`. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer
from modelsync_protocol.errors import UsageError

KEYS = (
    "name", "version", "digest", "generation", "path", "current",
    "previous_version", "previous_path", "previous_digest",
)  # fmt: skip
"""`path`: the version's folder; `current`: the link that always names what serves; `previous_…`: empty if there is
none. A program has each as MODELSYNC_ and the key in capitals."""

Values = Mapping[str, str]

_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def values_of(data: DataDir, pointer: Pointer) -> Values:
    """What there is to say of the version that `pointer` names."""
    name, previous = pointer.name, pointer.previous

    def folder(version: int, digest: str) -> Path:
        return data.version_dir(name, version, digest)

    return {
        "name": name,
        "version": str(pointer.version),
        "digest": pointer.digest,
        "generation": str(pointer.generation),
        "path": str(folder(pointer.version, pointer.digest)),
        "current": str(data.model_dir(name) / "current"),
        "previous_version": str(previous.version) if previous else "",
        "previous_path": str(folder(previous.version, previous.digest)) if previous else "",
        "previous_digest": previous.digest if previous else "",
    }


def check_places(where: str, value: Any) -> None:
    """UsageError if a text in `value`, which may be of tables and lists, has a place that nothing is known for."""
    for text in _texts(value):
        for found in _PLACE.findall(text):
            if found not in KEYS:
                known = ", ".join(f"{{{key}}}" for key in KEYS)
                raise UsageError(f"{where} has {{{found}}}, for which there is no value; there are {known}.")


def filled(value: Any, values: Values, quote: Callable[[str], str] = str) -> Any:
    """`value` with every place in its texts filled; tables and lists are gone through."""
    if isinstance(value, str):
        return _PLACE.sub(lambda match: quote(values[match[1]]), value)
    if isinstance(value, Mapping):
        return {key: filled(item, values, quote) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [filled(item, values, quote) for item in value]
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for item in items for text in _texts(item)]
