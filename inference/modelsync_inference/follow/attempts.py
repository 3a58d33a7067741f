"""What became of attempts to serve versions, kept across the ends of this process. No model is loaded here.

A version that takes its process with it leaves no other trace. Kept in DATA/inference/NAME, which may be removed at any
time: then all is forgotten and forgiven.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from modelsync_inference.model.pointer import Pointer

_FILE = "attempts.json"
_MAX_DEATHS = 2
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Attempt:
    """Of one activation (`generation` of `digest`).

    `begun`: so many times, and not ended in good order. `good`: it has served for a while, and is not suspected any
    more. `refused`: why it was.
    """

    generation: int
    digest: str
    begun: int = 0
    good: bool = False
    refused: str = ""

    @property
    def deadly(self) -> bool:
        """Whether the process ended too often while this version was loaded or had only just begun to serve."""
        return not self.good and self.begun >= _MAX_DEATHS


class Attempts:
    """The record of one model, in `folder`; None: nothing is kept. A folder that can't be written to is no trouble."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / _FILE
        self._last = self._read()

    def of(self, pointer: Pointer) -> Attempt:
        """What is known of the activation that `pointer` names."""
        last = self._last
        if last is not None and (last.generation, last.digest) == (pointer.generation, pointer.ref.digest):
            return last
        return Attempt(pointer.generation, pointer.ref.digest)

    def begin(self, pointer: Pointer) -> None:
        """It is about to be loaded."""
        attempt = self.of(pointer)
        if not attempt.good:
            self._keep(replace(attempt, begun=attempt.begun + 1))

    def end(self, pointer: Pointer, *, refused: str = "") -> None:
        """It was refused; or this process ends in good order, or tries no more, which says nothing against it."""
        attempt = self.of(pointer)
        if not attempt.good and attempt.begun:
            self._keep(replace(attempt, begun=attempt.begun - 1, refused=refused))

    def succeed(self, pointer: Pointer) -> None:
        """It has served for a while."""
        attempt = self.of(pointer)
        if not attempt.good:
            self._keep(replace(attempt, begun=0, good=True, refused=""))

    def condemn(self, pointer: Pointer, reason: str) -> None:
        """It served and broke: it is not tried again."""
        self._keep(Attempt(pointer.generation, pointer.ref.digest, _MAX_DEATHS, refused=reason))

    def _keep(self, attempt: Attempt) -> None:
        self._last = attempt
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".new")
            temporary.write_text(json.dumps(asdict(attempt)))
            temporary.replace(self._path)

    def _read(self) -> Attempt | None:
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as file:
                value = json.loads(file.read(_MAX_BYTES))
            attempt = Attempt(**value)
        except (OSError, ValueError, TypeError):
            return None
        kinds = (attempt.generation, int), (attempt.digest, str), (attempt.begun, int), (attempt.good, bool)
        return attempt if all(type(value) is kind for value, kind in kinds) else None
