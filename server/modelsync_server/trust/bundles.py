"""Writing the trust bundles of all models after a commit. What is in a bundle is modelsync_protocol.bundle's."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping

from modelsync_protocol import bundle, names, trust
from modelsync_protocol.errors import FormatError
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store, Tagged, TagMismatch
from modelsync_server.trust.metadata import State

Offers = Callable[[str, Mapping[int, str]], bytes | Awaitable[bytes | None] | None]
"""`offers(model, {version: manifest digest})` → the bundle's hints; None keeps those that the bundle has."""


async def write_bundles(store: Store, state: State, offers: Offers | None) -> None:
    """Bring every model's bundle up to `state`; a bundle that is newer already (another publisher's) stays."""
    await asyncio.gather(*(_write(store, state, model, offers) for model in state.models()))


async def _write(store: Store, state: State, model: str, offers: Offers | None) -> None:
    path = names.bundle_object(model)
    digests = {version: str(target["hashes"]["sha256"]) for version, target in state.versions(model).items()}
    hints = offers(model, digests) if offers else None
    wanted = await hints if inspect.isawaitable(hints) else hints
    while True:
        present = await _present(store, path)
        old = _readable(present.data) if present else None
        if old is not None and _version(old.timestamp) > state.timestamp.signed.version:
            return
        kept = old.offers if old is not None else b""
        new = bundle.Bundle(
            root_version=state.root.signed.version,
            targets_version=state.targets.signed.version,
            timestamp=state.raw["timestamp"],
            snapshot=state.raw["snapshot"],
            role=state.raw[trust.role_name(model)],
            offers=kept if wanted is None else wanted,
        )
        if new == old:
            return
        try:
            if present is None:
                await store.create(path, bundle.encode(new))
            else:
                await store.replace(path, bundle.encode(new), present.etag)
        except (AlreadyExists, TagMismatch):
            continue  # another publisher was faster: look who is newer
        return


async def _present(store: Store, path: str) -> Tagged | None:
    try:
        return await store.get_tagged(path)
    except ObjectNotFound:
        return None


def _readable(data: bytes) -> bundle.Bundle | None:
    try:
        return bundle.decode(data)
    except FormatError:
        return None  # damaged, or of another format: it is only a cache and is written anew


def _version(timestamp: bytes) -> int:
    """The version that a bundle's timestamp claims; 0 if it is no timestamp (then it may be overwritten)."""
    try:
        version = json.loads(timestamp)["signed"]["version"]
    except (ValueError, KeyError, TypeError):
        return 0
    return version if isinstance(version, int) else 0
