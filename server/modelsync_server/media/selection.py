"""Chooses what of a store goes onto a medium: which versions, for which devices, newest first, within a size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelsync_protocol import codecs, media, names, trust
from modelsync_protocol.errors import UsageError
from modelsync_protocol.media import Medium
from modelsync_protocol.plan import NOTHING as EMPTY
from modelsync_server.media.held import NOTHING, Held
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import read_manifest, sizes_by_version
from modelsync_server.trust import Catalogue
from modelsync_server.trust.metadata import State, catalogue_of

_ROLE = re.compile(r"metadata/[0-9]+\.(.+)\.json")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export. `models`: names, each with a version or None for its newest; none: all. `versions`: how many of
    the newest of each. `bases`: versions that the devices hold, of whichever model has them (0: nothing); `held`: what
    each device holds; both None: nothing is known of them. `since`: only what changed since these versions, by model.
    """

    models: Sequence[tuple[str, int | None]] = ()
    versions: int = 1
    bases: Sequence[int] | None = None
    held: Held | None = None
    since: Mapping[str, Sequence[int]] | None = None


@dataclass(slots=True)
class Selection:
    """What goes onto the medium: `objects` by store path with their bytes, `medium` what its index says, `inline` bytes
    that were read already, `left` one sentence for each version that the size left out."""

    medium: Medium
    objects: dict[str, int]
    inline: dict[str, bytes]
    left: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """All contents together, the index too."""
        return sum(self.objects.values()) + len(media.encode(self.medium))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One version of a model: what it can't do without, and what only saves time."""

    model: str
    version: int
    needed: dict[str, int]
    extra: dict[str, int]


async def select(store: Store, states: Sequence[State], wanted: Wanted, room: int | None, block: int) -> Selection:
    """Choose within `room` bytes (None: no limit), each object counted in blocks of `block` bytes.

    UsageError for models and versions that the store does not have, and if not even the newest of each fits.
    """
    catalogue = catalogue_of(*states)
    models = _models(catalogue, wanted)
    needed = _chains(states, models)
    objects, inline = await _metadata(store, needed, models)
    listed: dict[str, list[int]] = {}
    times = (state.timestamp.signed.unrecognized_fields.get(trust.ISSUED) for state in needed)
    issued = min(str(time or "1970-01-01T00:00:00Z") for time in times)
    chosen = Selection(Medium(catalogue.store_id, issued), objects, inline)

    def used(more: Iterable[int] = ()) -> int:
        return sum(_blocks(size, block) for size in (*chosen.objects.values(), *more)) + 2 * block

    for rank in range(max(map(len, models.values()), default=0)):
        for name, versions in models.items():
            if rank >= len(versions):
                continue
            piece = await _piece(store, catalogue, name, versions[rank], wanted)
            if piece is None:
                continue
            new = {path: size for path, size in piece.needed.items() if path not in chosen.objects}
            if room is not None and used(new.values()) > room:
                if rank == 0:
                    raise UsageError(
                        f"{name} version {piece.version} and what goes before it take {used(new.values()):,} bytes; "
                        f"{room:,} are allowed: choose fewer --models, or a larger medium."
                    )
                chosen.left.append(f"{name} version {piece.version} is left out: {sum(new.values()):,} bytes more.")
                continue
            chosen.objects.update(new)
            listed.setdefault(name, []).append(piece.version)
            for path, size in piece.extra.items():
                if path not in chosen.objects and (room is None or used([size]) <= room):
                    chosen.objects[path] = size
    if not listed:
        raise UsageError("those devices hold all of this already; there is nothing to export.")
    chosen.medium = Medium(catalogue.store_id, issued, {name: tuple(found) for name, found in sorted(listed.items())})
    return chosen


def _models(catalogue: Catalogue, wanted: Wanted) -> dict[str, list[int]]:
    """Versions to export by model, newest first."""
    found: dict[str, list[int]] = {}
    for name, version in wanted.models or [(name, None) for name in sorted(catalogue.models)]:
        if version is not None:
            catalogue.digest(name, version)
            found.setdefault(name, []).append(version)
        else:
            newest = sorted(catalogue.model(name).versions, reverse=True)[: wanted.versions]
            if not newest and wanted.models:
                raise UsageError(f"{name!r} has no version that may be used; publish one.")
            found.setdefault(name, []).extend(newest)
    return {name: sorted(set(versions), reverse=True) for name, versions in found.items() if versions}


def _chains(states: Sequence[State], models: Iterable[str]) -> list[State]:
    """The chains by which a reader of these models believes them; the shared one if there are no models at all."""
    own = {state.chain for state in states}
    of = {model if model in own else None for model in models} or {None}
    return [state for state in states if state.chain in of]


async def _metadata(
    store: Store, states: Iterable[State], models: Iterable[str]
) -> tuple[dict[str, int], dict[str, bytes]]:
    """Sizes of the signed metadata that a reader of these models asks for, and the timestamps as they were verified."""
    roles = {"root", "snapshot", "targets"}
    for name in models:
        roles |= {trust.role_name(name), trust.archive_name(name)}
        roles |= {trust.chain_role(role, name) for role in ("snapshot", "targets")}
    sizes: dict[str, int] = {}
    inline: dict[str, bytes] = {}
    for state in states:
        inline[state.timestamp_path] = state.raw["timestamp"]
        for path in sorted(state.objects() - {state.timestamp_path} - sizes.keys()):
            match = _ROLE.fullmatch(path)
            if match is not None and match[1] in roles:
                sizes[path] = (await store.stat(path)).size
    return {**{path: len(data) for path, data in inline.items()}, **sizes}, inline


async def _piece(store: Store, catalogue: Catalogue, name: str, version: int, wanted: Wanted) -> _Piece | None:
    """None: all those for whom it would be have this version already."""
    model = catalogue.model(name)
    digest = model.versions[version]
    bases = _bases(name, model.versions, wanted)
    if wanted.since is not None and version in wanted.since.get(name, ()):
        return None
    offered = await sizes_by_version(store, digest)
    updates = {base: _updates(digest, base, offered) for base in bases or model.versions.values()}
    packs = await _packs(store, digest)
    if bases is None:
        worth = sum(packs.values()) // 2  # an update only saves reading here, of a slow stick
        found = {path: size for each in updates.values() for path, size in each.items() if size < worth}
        return _Piece(name, version, packs, found)
    bases = bases - {digest}
    if not bases:
        return None
    needed: dict[str, int] = {}
    for base in sorted(bases):
        # Whoever holds nothing, or what no update is made from, takes packs.
        needed |= updates[base] or packs
    return _Piece(name, version, needed, {})


def _bases(name: str, versions: Mapping[int, str], wanted: Wanted) -> set[str] | None:
    """Digests that devices hold of a model (NOTHING: nothing); None if nothing is known."""
    found: set[str] | None = None
    if wanted.since is not None:
        found = {versions[number] for number in wanted.since.get(name, ()) if number in versions} or {NOTHING}
    if wanted.bases is not None:
        found = (found or set()) | {versions[number] for number in wanted.bases if number in versions}
        if 0 in wanted.bases or not found:
            found.add(NOTHING)
    if wanted.held is not None:
        found = (found or set()) | {device.get(name, NOTHING) for device in wanted.held}
    return found


def _updates(digest: str, base: str, offered: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    """Every update object from that base, in all versions of its format: devices read one or the other."""
    base = EMPTY.digest if base == NOTHING else base
    if base == EMPTY.digest:
        return {}  # a first install takes packs, which mend what is damaged too
    return {
        names.update_object(digest, base, version): offered[version][base]
        for version in range(1, codecs.NEWEST_VERSION + 1)
        if base in offered.get(version, {})
    }


async def _packs(store: Store, digest: str) -> dict[str, int]:
    """The manifest object and its packs."""
    try:
        _, index, size = await read_manifest(store, digest)
    except ObjectNotFound as error:
        raise UsageError(f"the store lacks {error.path}: run `modelsync verify`.") from error
    return {names.manifest_object(digest): size, **{names.pack_object(name): length for name, length in index.packs}}


def _blocks(size: int, block: int) -> int:
    """Bytes that an object takes, with its header or directory entry."""
    return (-(-size // block) + 1) * block
