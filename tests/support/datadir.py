"""Lays out a data directory's models/ as the daemon would (docs/interfaces.md §1). For tests of the inference side."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol import canonical

PROBE_PATH = ".modelsync/probe.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """A version in the data directory."""

    version: int
    digest: str

    @property
    def path(self) -> str:
        """Its folder, relative to models/NAME."""
        return f"{self.version}-{self.digest}"

    def as_json(self) -> dict[str, Any]:
        """Its form in a pointer file."""
        return {"version": self.version, "digest": self.digest, "path": self.path}


class DataDir:
    """Writes versions and pointers of one model below `root`."""

    def __init__(self, root: Path, model: str = "anomaly") -> None:
        self.root, self.model = root, model
        self.folder = root / "models" / model
        self.folder.mkdir(parents=True, exist_ok=True)

    def install(
        self,
        version: int,
        files: dict[str, bytes],
        probe: dict[str, Any] | None = None,
        requires: dict[str, str] | None = None,
    ) -> Installed:
        """Put a version's files and manifest in place; a `probe` becomes the artifact's probe file."""
        if probe is not None:
            files = {**files, PROBE_PATH: json.dumps(probe).encode()}
        manifest = canonical.encode(
            {
                "format": 1,
                "name": self.model,
                "version": version,
                "files": [
                    {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                    for path, data in sorted(files.items())
                ],
                "requires": requires or {},
                "probe": None if probe is None else {"data": PROBE_PATH},
            }
        )
        installed = Installed(version, canonical.digest(manifest))
        for path, data in files.items():
            target = self.folder / installed.path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        (self.folder / f"{installed.path}.manifest").write_bytes(manifest)
        return installed

    def point(self, kind: str, installed: Installed, generation: int, previous: Installed | None = None) -> None:
        """Replace current.json or candidate.json atomically."""
        self.write_pointer(
            kind,
            json.dumps(
                {
                    "format": 1,
                    "name": self.model,
                    **installed.as_json(),
                    "generation": generation,
                    "previous": previous and previous.as_json(),
                }
            ).encode(),
        )

    def write_pointer(self, kind: str, data: bytes) -> None:
        """Replace a pointer file with `data`, whatever that is."""
        temporary = self.folder / f".{kind}.json.new"
        temporary.write_bytes(data)
        temporary.replace(self.folder / f"{kind}.json")

    def remove_candidate(self) -> None:
        """Take candidate.json away."""
        (self.folder / "candidate.json").unlink()
