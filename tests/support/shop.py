"""A publisher's shop for tests: a store with keys in a folder, and short ways to fill it. Uses the real publisher."""

from __future__ import annotations

from pathlib import Path

from modelsync_server.publish.publisher import Release, publish
from modelsync_server.store import create_store, open_store
from modelsync_server.trust import Repository
from modelsync_server.trust.initialise import initialise


class Shop:
    """A store at `root`/store; make it with `await Shop.open(root)`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "store"
        self.keys = root / "keys"
        self.trust = self.path / "metadata" / "1.root.json"

    @classmethod
    async def open(cls, root: Path) -> Shop:
        """Initialise a new store below `root`."""
        shop = cls(root)
        await initialise(create_store(str(shop.path)), str(shop.keys))
        return shop

    async def publish(self, name: str, artifact: Path, **options: object) -> Release:
        """Publish an artifact as `modelsync publish` does."""
        return await publish(open_store(str(self.path)), str(self.keys), name, artifact, **options)  # type: ignore[arg-type]

    async def publish_bytes(self, name: str, data: bytes, file: str = "model.bin") -> Release:
        """Publish `data` as a single file."""
        path = self.root / "artifacts" / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return await self.publish(name, path)

    async def repository(self) -> Repository:
        """The store's signed metadata, opened with the keys."""
        return await Repository.open(open_store(str(self.path)), str(self.keys))

    def objects(self, prefix: str) -> list[Path]:
        """Files of the store below `prefix`, sorted."""
        return sorted(path for path in (self.path / prefix).rglob("*") if path.is_file())
