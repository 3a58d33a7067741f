"""How far a half-built version has come: counters in state.db, and beside the build what the steps were made from.

After a kill or a power cut the same plan is made again from the same inputs, and goes on at the first step that
the journal does not hold.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.durable import durable_write, fsync_directory
from modelsync_protocol import caps

_RECIPE = "recipe.json"
_SOURCE = "source"
TREE = "tree"
"""The half-built files, below the build's folder."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a plan was made from. `kind`: update, chunks or held; `base`: digest of the update's base, else empty;
    `size`: bytes of the object whose head (update) or whole (manifests/ object) is kept as source; `seeds`: digests
    of the manifests that steps copy from."""

    digest: str
    kind: str
    base: str
    size: int
    etag: str
    seeds: tuple[str, ...]


class Build:
    """One half-built version of a model in `folder`, with its journal row."""

    def __init__(self, folder: Path, name: str, database: Database) -> None:
        self.folder = folder
        self.tree = folder / TREE
        self.journaled = True
        self._name = name
        self._database = database

    def resume(self, digest: str) -> tuple[Recipe, bytes, int] | None:
        """The recipe, its source bytes and the number of steps done for `digest`, or None to begin anew."""
        row = self._database.connection.execute(
            "SELECT ops_done FROM journal WHERE name = ? AND digest = ?", (self._name, digest)
        ).fetchone()
        try:
            fields = json.loads((self.folder / _RECIPE).read_bytes())
            recipe = Recipe(**{**fields, "seeds": tuple(fields["seeds"])})
            source = (self.folder / _SOURCE).read_bytes()
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if row is None or recipe.digest != digest or not self.tree.is_dir():
            return None
        return recipe, source, int(row[0])

    def begin(self, recipe: Recipe, source: bytes, fetched: int) -> None:
        """Start anew: drop what was there, keep `source` and `recipe`, then open the journal at no step.

        Nothing is kept of a build that takes no more `fetched` bytes than a parcel brings again with the next attempt:
        beside those few a kill costs it nothing, and the journal would have the disk waited for ten times.
        """
        self.drop()
        self.tree.mkdir(parents=True)
        self.journaled = fetched > caps.MAX_ENCLOSED_BYTES
        if not self.journaled:
            return
        fsync_directory(self.folder.parent)
        durable_write(self.folder / _SOURCE, source)
        durable_write(self.folder / _RECIPE, json.dumps(asdict(recipe)).encode())
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO journal (name, digest, ops_done, payload_bytes) VALUES (?, ?, 0, 0)",
                (self._name, recipe.digest),
            )

    def advance(self, steps: int, payload_bytes: int) -> None:
        """Record that `steps` steps with `payload_bytes` bytes of payload are durably on the disk."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE journal SET ops_done = ?, payload_bytes = ? WHERE name = ?", (steps, payload_bytes, self._name)
            )

    def drop(self) -> None:
        """Forget the build and remove its files."""
        row = self._database.connection.execute("SELECT 1 FROM journal WHERE name = ?", (self._name,)).fetchone()
        if row is not None:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM journal WHERE name = ?", (self._name,))
        if self.folder.exists():
            shutil.rmtree(self.folder)
