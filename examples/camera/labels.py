"""The labels of the version that answered, from the data directory that it is served from. Reads only.

An answer says its version; that version's own labels.txt names it, whatever else is installed meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LABELS = "labels.txt"


class Labels:
    """`of(version)` for a model of a data directory. Versions never change, so each is read once."""

    def __init__(self, data: Path, model: str) -> None:
        self._folder = data / "models" / model
        self._known: dict[int, tuple[str, ...]] = {}

    def of(self, version: int) -> tuple[str, ...]:
        """Labels in the order of the model's shares; LookupError if they are not to be had now."""
        if version not in self._known:
            self._known[version] = self._read(version)
        return self._known[version]

    def name(self, version: int, shares: list[float]) -> tuple[str, float]:
        """The likeliest label, and how sure the model is; LookupError if labels and shares do not fit."""
        labels = self.of(version)
        if len(labels) != len(shares):
            raise LookupError(f"version {version} gives {len(shares)} shares and has {len(labels)} labels")
        if not all(map(math.isfinite, shares)):
            raise LookupError(f"version {version} gives shares that are no numbers")
        place = max(range(len(shares)), key=shares.__getitem__)
        return labels[place], shares[place]

    def _read(self, version: int) -> tuple[str, ...]:
        """By the pointers (docs/interfaces.md §1): the current version, the one before, or one that is on trial."""
        try:
            for each in self._pointers():
                if each.get("version") == version:
                    text = (self._folder / each["path"] / LABELS).read_text(encoding="utf-8-sig")
                    return tuple(line.strip() for line in text.splitlines())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise LookupError(f"the labels of version {version} can't be read: {error}") from error
        raise LookupError(f"version {version} is not installed")

    def _pointers(self) -> Iterator[dict[str, Any]]:
        """Each file is replaced as a whole, so it is never half a pointer; a candidate is there only now and then."""
        current = json.loads((self._folder / "current.json").read_text())
        yield from (current, current.get("previous") or {})
        with contextlib.suppress(FileNotFoundError):
            yield json.loads((self._folder / "candidate.json").read_text())
