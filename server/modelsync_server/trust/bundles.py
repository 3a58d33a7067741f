"""Writing the trust bundles and parcels of the models that changed, after a commit; of all, after a refresh.

What is in them is said in modelsync_protocol.bundle, modelsync_protocol.parcel and parcels.py.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from functools import partial

from modelsync_protocol import bundle, names, parcel, trust
from modelsync_protocol.errors import FormatError
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store, Tagged, TagMismatch
from modelsync_server.trust import parcels
from modelsync_server.trust.metadata import State

Offers = Callable[[str, Mapping[int, str]], bytes | Awaitable[bytes | None] | None]
"""`offers(model, {version: manifest digest})` → the bundle's hints; None keeps those that the bundle has."""


def newest_digests(state: State, model: str) -> list[str]:
    """Manifest digests of the model's live versions, the newest first; empty for a model that is not there."""
    return [str(target["hashes"]["sha256"]) for _, target in sorted(state.versions(model).items(), reverse=True)]


async def write_bundles(
    store: Store,
    state: State,
    offers: Offers | None,
    models: Sequence[str] | None = None,
    before: Mapping[str, Sequence[str]] | None = None,
    present: Sequence[str] | None = None,
) -> None:
    """Bring bundles and parcels of `models` (None: all of the chain) up to `state`; what is newer already (another
    publisher's) stays.

    `before`: the models' newest digests before the change, which say what parcels there may be; or `present`: what
    lies below bundles/. Without both the store is asked.
    """
    if models is None:
        models = state.models()
        if present is None and state.chain is None:
            present = [path for path, _ in await store.list("bundles/")]
    parted: dict[str, set[str]] = {}
    for path in present or ():
        parted.setdefault(path.removeprefix("bundles/").partition(".")[0], set()).add(path)

    async def one(model: str) -> None:
        if before is not None:
            there = set(await parcels.paths(store, model, before[model]))
        elif present is not None:
            there = parted.get(model, set())
        else:
            there = {path for path, _ in await store.list(f"{names.bundle_object(model)}.")}
        own = {names.bundle_object(model), state.timestamp_path}
        await _write_model(store, state, model, offers, there - own)

    await asyncio.gather(*(one(model) for model in models if trust.role_name(model) in state.roles))


async def _write_model(store: Store, state: State, model: str, offers: Offers | None, present: Set[str]) -> None:
    written = await _write_bundle(store, state, model, offers)
    if written is None:
        return
    wanted = await parcels.contents(store, state, model)

    async def put(path: str, found: parcels.Contents) -> None:
        data = parcel.encode(written, found.objects, found.newer_offers)
        await _write(store, state, path, _in_parcel, partial(_same, data))

    await asyncio.gather(*(put(path, found) for path, found in wanted.items()))
    await asyncio.gather(*(_remove(store, state, path) for path in present - wanted.keys()))


async def _write_bundle(store: Store, state: State, model: str, offers: Offers | None) -> bytes | None:
    """The bundle's bytes as they are now; None if another publisher's is newer."""
    digests = {version: str(target["hashes"]["sha256"]) for version, target in state.versions(model).items()}
    hints = offers(model, digests) if offers else None
    wanted = await hints if inspect.isawaitable(hints) else hints

    def build(old: bundle.Bundle | None) -> bytes:
        kept = old.offers if old is not None else b""
        return bundle.encode(
            bundle.Bundle(
                root_version=state.root.signed.version,
                targets_version=state.targets.signed.version,
                timestamp=state.raw["timestamp"],
                snapshot=state.raw["snapshot"],
                role=state.raw[trust.role_name(model)],
                offers=kept if wanted is None else wanted,
                own=state.chain is not None,
            )
        )

    return await _write(store, state, names.bundle_object(model), _readable, build)


async def _write(
    store: Store,
    state: State,
    path: str,
    read: Callable[[bytes], bundle.Bundle | None],
    build: Callable[[bundle.Bundle | None], bytes],
) -> bytes | None:
    """Put what `build(bundle that is there)` gives in place and return it; None if what is there is newer."""
    while True:
        present = await _present(store, path)
        old = read(present.data) if present is not None else None
        if old is not None and _is_newer(old, state):
            return None
        data = build(old)
        try:
            if present is None:
                await store.create(path, data)
            elif present.data != data:
                await store.replace(path, data, present.etag)
        except (AlreadyExists, TagMismatch):
            continue  # another publisher was faster: look who is newer
        return data


def _same(data: bytes, old: bundle.Bundle | None) -> bytes:
    return data


async def _remove(store: Store, state: State, path: str) -> None:
    """A parcel that is written no more would tell its readers of an old version as the newest."""
    present = await _present(store, path)
    if present is None:
        return
    old = _in_parcel(present.data)
    if old is None or not _is_newer(old, state):
        await store.delete(path)


def _is_newer(found: bundle.Bundle, state: State) -> bool:
    if found.own != (state.chain is not None):
        return found.own  # a model gets a chain of its own, and never goes back
    return _version(found.timestamp) > state.timestamp.signed.version


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


def _in_parcel(data: bytes) -> bundle.Bundle | None:
    try:
        return bundle.decode(parcel.decode(data).bundle)
    except FormatError:
        return None


def _version(timestamp: bytes) -> int:
    """The version that a bundle's timestamp claims; 0 if it is no timestamp (then it may be overwritten)."""
    try:
        version = json.loads(timestamp)["signed"]["version"]
    except (ValueError, KeyError, TypeError):
        return 0
    return version if isinstance(version, int) else 0
