"""What the direct method `apply` carries, and an origin made of it: a trust bundle and one update. No network here."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from modelsync_daemon.transfer.memory_body import MemoryBody
from modelsync_daemon.trust.resolved import ObjectMissing
from modelsync_protocol import caps, names
from modelsync_protocol.errors import FormatError, RefusedError, UsageError

_VERSION_AT = 3
"""Where an update object says the version of its format: behind "MSU" (FORMAT.md §8)."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """One update, pushed: `trust` is the model's bundle, `update` the object from manifest digest `base`."""

    model: str
    version: int
    base: str
    trust: bytes
    update: bytes

    @classmethod
    def parse(cls, payload: object) -> Pushed:
        """Read the method's payload (base85 in JSON); UsageError, FormatError. Nothing in it is believed."""
        if not isinstance(payload, Mapping):
            raise UsageError("apply takes an object with model, version, base, trust and update.")
        if len(json.dumps(payload)) > caps.MAX_PUSH_BYTES:
            raise UsageError(f"a pushed update has at most {caps.MAX_PUSH_BYTES} bytes; let the device fetch this one.")
        return cls(
            names.check_model_name(str(payload.get("model"))),
            names.check_version(payload.get("version")),
            names.check_digest(payload.get("base")),
            _decoded(payload, "trust"),
            _decoded(payload, "update"),
        )


class PushedOrigin:
    """Answers as an origin that has nothing but what is in the file `path` (the method's payload as JSON)."""

    def __init__(self, path: Path) -> None:
        try:
            self._pushed = Pushed.parse(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise RefusedError("the pushed update is no longer there; push it again.") from error

    async def __aenter__(self) -> PushedOrigin:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def get(self, path: str, limit: int) -> bytes:
        """The bundle; ObjectMissing for all else."""
        if path == names.bundle_object(self._pushed.model) and len(self._pushed.trust) <= limit:
            return self._pushed.trust
        raise ObjectMissing(f"{path} was not pushed and must be fetched.")

    async def size(self, path: str) -> int | None:
        """Bytes of the update, if `path` is its."""
        return len(self._pushed.update) if self._is_update(path) else None

    def open(self, path: str, offset: int, end: int, *, whole: bool, etag: str = "") -> MemoryBody:
        """A reader of the update; ObjectMissing for all else."""
        if not self._is_update(path):
            raise ObjectMissing(f"{path} was not pushed and must be fetched.")
        return MemoryBody(self._pushed.update[:end], offset)

    hearsay = False

    def mistrust(self, path: str) -> bool:
        """Nobody else is known."""
        return False

    def newer_offers(self) -> bytes | None:
        """None come with a push."""
        return b""

    def _is_update(self, path: str) -> bool:
        version = self._pushed.update[_VERSION_AT : _VERSION_AT + 1]
        return path.startswith("updates/") and path.endswith(f"/{self._pushed.base}.v{int.from_bytes(version)}")


def _decoded(payload: Mapping[str, Any], key: str) -> bytes:
    text = payload.get(key)
    try:
        return base64.b85decode(text if isinstance(text, str) else "")
    except ValueError as error:
        raise FormatError(f"the pushed {key} is not base85; push it again.") from error
