"""What devices hold, for whom a medium is made: read from twins, reports or status documents. No I/O here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelsync_protocol import carried_report, names, twin
from modelsync_protocol.errors import FormatError, UsageError

NOTHING = ""
"""A device that holds nothing of a model."""

Held = Sequence[Mapping[str, str]]
"""For each device, manifest digests by model."""


def parse(data: bytes) -> Held:
    """What the devices of a file hold: JSON of one device, a list of them, or a line for each. UsageError.

    A device is a twin (of `modelsync twin get`, or a row of a query), what `modelsyncd status --json` prints, or a
    report of `modelsyncd export-report` (which is read here without being believed: it only chooses).
    """
    found = [_models(document) for document in _documents(data)]
    if not found:
        raise UsageError("the file of devices is empty; it holds twins, status documents or reports.")
    return found


def _documents(data: bytes) -> Iterator[Any]:
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        for line in data.splitlines():
            if line.strip():
                yield _line(line.strip())
        return
    yield from whole if isinstance(whole, list) else [whole]


def _line(line: bytes) -> Any:
    try:
        return carried_report.decode(line).reported if line[:1] != b"{" else json.loads(line)
    except (FormatError, ValueError, RecursionError) as error:
        raise UsageError("the file of devices is neither JSON nor reports; see docs/sites.md.") from error


def _models(document: Any) -> dict[str, str]:
    for path in (("properties", "reported", twin.SECTION), ("reported", twin.SECTION), (twin.SECTION,), ()):
        section: Any = document
        for key in path:
            section = section.get(key) if isinstance(section, Mapping) else None
        models = section.get("models") if isinstance(section, Mapping) else None
        if isinstance(models, Mapping):
            return {
                str(name): model["digest"]
                for name, model in models.items()
                if isinstance(model, Mapping) and names.is_digest(model.get("digest"))
            }
    if isinstance(document, Mapping) and ("properties" in document or "deviceId" in document):
        return {}  # a device that never reported
    raise UsageError("the file of devices holds something that is no twin, status document or report.")
