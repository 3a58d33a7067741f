"""Reading a store's signed metadata, each file verified from the first root on. Nothing is written or signed here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from modelsync_protocol import near_names, trust
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_protocol.names import is_digest
from modelsync_protocol.requirements import terms
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.trust.keys import store_id

_NAME = re.compile(r"metadata/([0-9]+)\.(.+)\.json")
_VERSION = re.compile(r"[1-9][0-9]{0,15}")
_Signed = TypeVar("_Signed", Root, Snapshot, Targets, Timestamp)


@dataclass(slots=True)
class State:
    """All current metadata of a store, verified (expiry apart), with the bytes that were verified.

    `roles` has every delegated role by name. `highest` is the highest number of each role's files, garbage of
    crashed publishers included; `etag` belongs to timestamp.json.
    """

    first_root: bytes
    root: Metadata[Root]
    root_bytes: bytes
    timestamp: Metadata[Timestamp]
    etag: str
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    roles: dict[str, Metadata[Targets]]
    raw: dict[str, bytes]
    highest: dict[str, int]

    def models(self) -> list[str]:
        """Names of all delegated models, sorted."""
        delegations = self.targets.signed.delegations
        names = delegations.roles if delegations and delegations.roles else {}
        return sorted(model for role in names if (model := trust.model_of_role(role)) is not None)

    def versions(self, model: str) -> dict[int, dict[str, Any]]:
        """All live versions of `model`, its archive's too: version → the TUF target as JSON (`hashes`, `length`)."""
        found: dict[int, dict[str, Any]] = {}
        for role in (trust.archive_name(model), trust.role_name(model)):
            if role in self.roles:
                for path, target in self.roles[role].signed.targets.items():
                    found[int(path.rpartition("/")[2])] = target.to_dict()
        return dict(sorted(found.items()))

    def withdrawn(self, model: str) -> list[int]:
        """Withdrawn versions of `model`, sorted."""
        role = self.roles.get(trust.role_name(model))
        return list(role.signed.unrecognized_fields.get(trust.WITHDRAWN, [])) if role else []

    def releases(self, model: str) -> dict[int, str]:
        """Version → digest of its release record, for versions that have one; what is malformed is left out."""
        role = self.roles.get(trust.archive_name(model))
        found = role.signed.unrecognized_fields.get(trust.RELEASES) if role else None
        if not isinstance(found, dict):
            return {}
        return {int(key): digest for key, digest in found.items() if _VERSION.fullmatch(key) and is_digest(digest)}

    def requires(self, model: str) -> dict[int, dict[str, str]]:
        """Version → what it requires, for live versions that require anything; what is malformed is left out."""
        found: dict[int, dict[str, str]] = {}
        for name in (trust.archive_name(model), trust.role_name(model)):
            role = self.roles.get(name)
            spelled = role.signed.unrecognized_fields.get(trust.REQUIRES) if role else None
            for path in role.signed.targets if role and spelled is not None else ():
                version = int(path.rpartition("/")[2])
                with suppress(FormatError):
                    if needed := terms.of_version(spelled, version):
                        found[version] = needed
        return found

    def objects(self) -> set[str]:
        """Store paths of the metadata that devices may still ask for: the whole root chain and all current files."""
        current = {trust.TIMESTAMP_OBJECT}
        current |= {trust.metadata_object("root", number) for number in range(1, self.root.signed.version + 1)}
        current.add(trust.metadata_object("snapshot", self.snapshot.signed.version))
        for file, meta in self.snapshot.signed.meta.items():
            current.add(trust.metadata_object(file.removesuffix(".json"), meta.version))
        return current


@dataclass(frozen=True, slots=True)
class ModelVersions:
    """What is signed of one model. `versions` maps live versions to manifest digests, `lengths` to the manifests'
    sizes in bytes, `custom` to what the publisher noted; `withdrawn` are the versions taken back; `releases` maps
    versions to digests of their release records, `requires` to what they require of a device."""

    versions: Mapping[int, str]
    lengths: Mapping[int, int]
    custom: Mapping[int, Mapping[str, Any]]
    withdrawn: frozenset[int]
    releases: Mapping[int, str] = field(default_factory=dict)
    requires: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The highest version number ever signed, withdrawn ones too; 0 if there is none."""
        return max([0, *self.versions, *self.withdrawn])


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The verified list of a store: models, and the metadata objects in use; `expires` is the timestamp's."""

    store_id: str
    models: Mapping[str, ModelVersions]
    metadata_objects: frozenset[str]
    expires: datetime

    def model(self, name: str) -> ModelVersions:
        """One model; UsageError if the store has none of that name."""
        try:
            return self.models[name]
        except KeyError:
            meant = near_names.hint(name, self.models)
            raise UsageError(f"the store has no model {name!r}{meant}: `modelsync list` shows what it has.") from None

    def digest(self, name: str, version: int) -> str:
        """The manifest's digest of a live version; UsageError if there is none, RefusedError if it was withdrawn."""
        model = self.model(name)
        if version in model.withdrawn:
            raise RefusedError(f"version {version} of {name!r} was withdrawn; devices refuse it.")
        if version not in model.versions:
            meant = near_names.near_version(version, model.versions)
            raise UsageError(f"{name!r} has no version {version}{meant}; `modelsync list` shows what there is.")
        return model.versions[version]


def catalogue_of(state: State) -> Catalogue:
    """The listing of an already verified state."""
    models = {}
    for model in state.models():
        targets = state.versions(model)
        models[model] = ModelVersions(
            versions={version: target["hashes"]["sha256"] for version, target in targets.items()},
            lengths={version: target["length"] for version, target in targets.items()},
            custom={version: target.get("custom", {}) for version, target in targets.items()},
            withdrawn=frozenset(state.withdrawn(model)),
            releases=state.releases(model),
            requires=state.requires(model),
        )
    return Catalogue(store_id(state.first_root), models, frozenset(state.objects()), state.timestamp.signed.expires)


async def read_catalogue(store: Store) -> Catalogue:
    """List a store without keys: everything is verified from the store's own first root on.

    Expired metadata is listed all the same (the publisher must be able to see and to refresh it).
    """
    return catalogue_of(await read_state(store))


async def read_state(store: Store, expected_id: str | None = None, *, any_root: bool = False) -> State:
    """Read and verify all current metadata; RefusedError if anything is not signed by whom it should be.

    `expected_id`: the store id that the caller's keys belong to. `any_root` accepts top-level metadata signed for
    an earlier root of the chain (only for finishing an interrupted change of keys). Reads that race with a
    publisher see one consistent state, since numbered files never change.
    """
    first, root, root_bytes, chain = await _root_chain(store)
    if expected_id is not None and store_id(first) != expected_id:
        raise RefusedError("these keys belong to another store: name the right folder with --keys.")
    roots = [root, *reversed(chain)] if any_root else [root]
    try:
        tagged = await store.get_tagged(trust.TIMESTAMP_OBJECT)
    except ObjectNotFound:
        raise RefusedError(f"{store.url} is half made: run `modelsync init` again with the same keys.") from None
    timestamp = _verified(Timestamp, tagged.data, roots, "timestamp")
    number = timestamp.signed.snapshot_meta.version
    raw = {"timestamp": tagged.data}
    raw["snapshot"] = await store.get(trust.metadata_object("snapshot", number))
    snapshot = _verified(Snapshot, raw["snapshot"], roots, "snapshot", number)
    meta = {file.removesuffix(".json"): info.version for file, info in snapshot.signed.meta.items()}
    files = await asyncio.gather(*(store.get(trust.metadata_object(role, n)) for role, n in meta.items()))
    raw |= dict(zip(meta, files, strict=True))
    if "targets" not in raw:
        raise RefusedError("the snapshot does not list the top-level targets: restore the store's metadata.")
    targets = _verified(Targets, raw["targets"], roots, "targets", meta["targets"])
    roles = {role: _verified(Targets, raw[role], [targets], role, meta[role]) for role in meta if role != "targets"}
    highest = await highest_numbers(store)
    return State(first, root, root_bytes, timestamp, tagged.etag, snapshot, targets, roles, raw, highest)


async def highest_numbers(store: Store) -> dict[str, int]:
    """The highest number of each role's files in the store, referred to or not."""
    highest: dict[str, int] = {}
    for path, _ in await store.list("metadata/"):
        if match := _NAME.fullmatch(path):
            highest[match[2]] = max(int(match[1]), highest.get(match[2], 0))
    return highest


async def _root_chain(store: Store) -> tuple[bytes, Metadata[Root], bytes, list[Metadata[Root]]]:
    """The first root, the newest one with its bytes, and all between, each signed by its predecessor and itself."""
    first = data = await store.get(trust.metadata_object("root", 1))
    root = _parse(Root, data, "root")
    _check(root, root, "root", 1)
    chain: list[Metadata[Root]] = []
    while True:
        number = root.signed.version + 1
        try:
            following = await store.get(trust.metadata_object("root", number))
        except ObjectNotFound:
            return first, root, data, chain
        successor = _parse(Root, following, "root")
        _check(successor, root, "root", number)
        _check(successor, successor, "root", number)
        chain.append(root)
        root, data = successor, following


def _verified(
    kind: type[_Signed],
    data: bytes,
    delegators: list[Metadata[Root]] | list[Metadata[Targets]],
    role: str,
    number: int | None = None,
) -> Metadata[_Signed]:
    metadata = _parse(kind, data, role)
    for delegator in delegators[:-1]:
        try:
            _check(metadata, delegator, role, number)
        except RefusedError:
            continue
        return metadata
    _check(metadata, delegators[-1], role, number)
    return metadata


def _parse(kind: type[_Signed], data: bytes, role: str) -> Metadata[_Signed]:
    try:
        metadata: Metadata[_Signed] = Metadata[_Signed].from_bytes(data)
    except DeserializationError:
        raise RefusedError(f"the store's {role} metadata is damaged: restore it from a backup.") from None
    if not isinstance(metadata.signed, kind):
        raise RefusedError(f"the store's {role} metadata is of another kind: restore it from a backup.")
    return metadata


def _check(
    metadata: Metadata[Any], delegator: Metadata[Root] | Metadata[Targets], role: str, number: int | None
) -> None:
    try:
        delegator.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        raise RefusedError(
            f"the store's {role} metadata is not signed by its keys: restore it from a backup, or if a change of "
            "keys was interrupted, run that command again."
        ) from None
    if isinstance(metadata.signed, Targets) and metadata.signed.unrecognized_fields.get(trust.ROLE) != role:
        raise RefusedError(f"the store's {role} metadata is another role's: restore it from a backup.")
    if number is not None and metadata.signed.version != number:
        raise RefusedError(f"the store's {role} metadata has the wrong number: restore it from a backup.")


def now() -> datetime:
    """This machine's time; the publisher's clock is trusted (it signs)."""
    return datetime.now(UTC)
