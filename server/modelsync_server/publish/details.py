"""Everything about one version, for people: files with digests, signatures, costs, metadata. Nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import Metadata

from modelsync_protocol import trust
from modelsync_protocol.errors import FormatError, RefusedError
from modelsync_protocol.manifest import EmptyDirectory, Link, Manifest
from modelsync_server.publish.listing import Version, newest, read_version
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import materialised
from modelsync_server.trust.metadata import State, catalogue_for, read_model_state


@dataclass(frozen=True, slots=True)
class FileEntry:
    """An entry of a version: a file (`size` in bytes, `mode`, `sha256` of its content), or a link, or a directory.

    `sha256` is None where it was not asked for or the version is damaged.
    """

    path: str
    size: int
    mode: int | None
    sha256: str | None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signed file that a device needs to believe in the version: who signed it, and until when that is believed."""

    role: str
    keyids: tuple[str, ...]
    expires: datetime


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """A version with its files and signatures. `problem` says why files or their digests are missing."""

    name: str
    version: Version
    newest: bool
    entries: tuple[FileEntry, ...]
    chunks: int | None
    probe: str | None
    requires: Mapping[str, str]
    signatures: tuple[Signature, ...]
    problem: str | None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What is signed of it beside its bytes."""
        return self.version.metadata


async def describe(store: Store, name: str, version: int | None = None, *, digests: bool = True) -> VersionDetails:
    """One version of a model (None: the newest). With `digests` its files are decoded and hashed.

    UsageError for one that there isn't, RefusedError for one that was withdrawn.
    """
    catalogue = await catalogue_for(store, name)
    state = await read_model_state(store, name)
    wanted = newest(catalogue, name) if version is None else version
    if not wanted:
        raise RefusedError(f"{name!r} has no version that may be used: publish one.")
    digest = catalogue.digest(name, wanted)
    found, manifest = await read_version(store, catalogue.model(name), wanted)
    problem = None if manifest else "its manifest is missing or damaged: run `modelsync verify`."
    hashes = _whole_chunks(manifest) if manifest else {}
    if manifest and digests and len(hashes) < len(manifest.files):
        try:
            hashes = await _hashed(store, digest)
        except (FormatError, ObjectNotFound) as error:
            problem = f"its files can't be read: {error}"
    return VersionDetails(
        name=name,
        version=found,
        newest=wanted == newest(catalogue, name),
        entries=_entries(manifest, hashes) if manifest else (),
        chunks=manifest.chunk_count if manifest else None,
        probe=manifest.probe if manifest else None,
        requires={**(manifest.requires if manifest else {}), **found.requires},
        signatures=_signatures(state, name, wanted),
        problem=problem,
    )


def _whole_chunks(manifest: Manifest) -> dict[str, str]:
    """The digests that the manifest itself tells: of files that are one chunk or empty."""
    nothing = hashlib.sha256().hexdigest()
    return {file.path: (file.digests or (nothing,))[0] for file in manifest.files if len(file.digests) <= 1}


async def _hashed(store: Store, digest: str) -> dict[str, str]:
    async with materialised(store, digest) as source:
        offsets = source.manifest.file_offsets
        return {
            file.path: hashlib.sha256(source.stream[start : start + file.size]).hexdigest()
            for file, start in zip(source.manifest.files, offsets, strict=False)
        }


def _entries(manifest: Manifest, hashes: Mapping[str, str]) -> tuple[FileEntry, ...]:
    entries = []
    for entry in manifest.entries:
        if isinstance(entry, Link):
            entries.append(FileEntry(entry.path, 0, None, None, entry.target))
        elif isinstance(entry, EmptyDirectory):
            entries.append(FileEntry(entry.path + "/", 0, None, None))
        else:
            entries.append(FileEntry(entry.path, entry.size, entry.mode, hashes.get(entry.path)))
    return tuple(entries)


def _signatures(state: State, name: str, version: int) -> tuple[Signature, ...]:
    role, archive = trust.role_name(name), trust.archive_name(name)
    listed = {int(path.rpartition("/")[2]) for path in state.roles[role].signed.targets}
    chain: list[tuple[str, Metadata[Any]]] = [
        (role if version in listed else archive, state.roles[role if version in listed else archive]),
        ("targets", state.targets),
        ("snapshot", state.snapshot),
        ("timestamp", state.timestamp),
        ("root", state.root),
    ]
    return tuple(Signature(each, tuple(sorted(meta.signatures)), meta.signed.expires) for each, meta in chain)
