"""A store, an origin before it and a device's folder, by the commands that people use; for measures of pulls."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.scale import cost

_BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class World:
    """Publishes to the store and pulls from its origin."""

    folder: Path
    url: str

    def publish(self, name: str, path: Path) -> cost.Cost:
        """The next version of a model, an update from the last one with it."""
        keys = self.folder / "keys"
        command: list[str | Path] = [_BIN / "modelsync", "publish", self.folder / "store", name, path, "--keys", keys]
        return cost.run(command, env={"XDG_CACHE_HOME": str(self.folder / "cache")})

    def pull(self, name: str, data: str = "device") -> cost.Cost:
        """Bring the newest version to a device, from what it holds."""
        trust = self.folder / "keys" / "root.json"
        place = self.folder / data
        return cost.run(
            [_BIN / "modelsyncd", "pull", name, "--origin", self.url, "--data", place, "--trust", trust],
        )


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """A fresh store in `folder`, served on loopback while the context lasts."""
    cost.run([_BIN / "modelsync", "init", folder / "store", "--keys", folder / "keys"])
    with (folder / "origin.log").open("wb") as log:
        origin = subprocess.Popen(
            [str(_BIN / "modelsync"), "serve", str(folder / "store"), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert origin.stdout is not None
            yield World(folder, json.loads(origin.stdout.readline())["url"])
        finally:
            origin.terminate()
            origin.wait()
