"""Reading a store's signed metadata, each file verified from the first root on. Nothing is written or signed here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping
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
from modelsync_server.store import ObjectNotFound, Store, Tagged
from modelsync_server.trust.keys import store_id

_NAME = re.compile(r"metadata/([0-9]+)\.(.+)\.json")
_VERSION = re.compile(r"[1-9][0-9]{0,15}")
_AT_ONCE = 8
"""Chains that are read together."""

_Signed = TypeVar("_Signed", Root, Snapshot, Targets, Timestamp)


@dataclass(slots=True)
class State:
    """Current metadata of one chain of a store, verified (expiry apart), with the bytes that were verified.

    `chain` is the model whose own chain it is, None for the shared one. `roles` has the delegated roles that were
    read, by name. `etag` belongs to the timestamp; it is None for a chain that is about to begin.
    """

    first_root: bytes
    root: Metadata[Root]
    root_bytes: bytes
    timestamp: Metadata[Timestamp]
    etag: str | None
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    roles: dict[str, Metadata[Targets]]
    raw: dict[str, bytes]
    chain: str | None = None

    def path(self, role: str, number: int) -> str:
        """Store path of the chain's file of that role and number."""
        return trust.metadata_object(trust.chain_role(role, self.chain), number)

    @property
    def timestamp_path(self) -> str:
        """Store path of the chain's timestamp."""
        return trust.timestamp_object(self.chain)

    def models(self) -> list[str]:
        """Names of the models that the chain delegates, sorted."""
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

    def pruned(self, model: str) -> int:
        """Up to which number versions may have been pruned; 0 if none were."""
        role = self.roles.get(trust.archive_name(model))
        found = role.signed.unrecognized_fields.get(trust.PRUNED, 0) if role else 0
        return found if type(found) is int else 0

    def objects(self) -> set[str]:
        """Store paths of the metadata that devices may still ask for: the whole root chain and all current files."""
        current = {self.timestamp_path}
        current |= {trust.metadata_object("root", number) for number in range(1, self.root.signed.version + 1)}
        current.add(self.path("snapshot", self.snapshot.signed.version))
        for file, meta in self.snapshot.signed.meta.items():
            current.add(self.path(file.removesuffix(".json"), meta.version))
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
    pruned: int = 0
    """Retention may have taken out versions up to this number; 0 if it never did."""

    @property
    def last(self) -> int:
        """The highest version number ever signed, withdrawn and pruned ones too; 0 if there is none."""
        return max([self.pruned, *self.versions, *self.withdrawn])


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


def catalogue_of(*states: State) -> Catalogue:
    """The listing of already verified chains; a model's own chain says more than the shared one."""
    models = {}
    for state in sorted(states, key=lambda state: state.chain is not None):
        for model in state.models():
            targets = state.versions(model)
            models[model] = ModelVersions(
                versions={version: target["hashes"]["sha256"] for version, target in targets.items()},
                lengths={version: target["length"] for version, target in targets.items()},
                custom={version: target.get("custom", {}) for version, target in targets.items()},
                withdrawn=frozenset(state.withdrawn(model)),
                releases=state.releases(model),
                requires=state.requires(model),
                pruned=state.pruned(model),
            )
    objects = frozenset().union(*(state.objects() for state in states))
    expires = min(state.timestamp.signed.expires for state in states)
    return Catalogue(store_id(states[0].first_root), models, objects, expires)


async def read_catalogue(store: Store) -> Catalogue:
    """List a store without keys: everything is verified from the store's own first root on. O(models) requests.

    Expired metadata is listed all the same (the publisher must be able to see and to refresh it).
    """
    return catalogue_of(*await read_states(store))


async def catalogue_for(store: Store, model: str) -> Catalogue:
    """The listing of one model, with as many requests whatever else the store holds; UsageError if it has none such."""
    try:
        found = catalogue_of(await read_model_state(store, model))
        if model in found.models:
            return Catalogue(found.store_id, {model: found.models[model]}, found.metadata_objects, found.expires)
    except NoSuchChain:
        pass
    meant = near_names.hint(model, (await read_catalogue(store)).models)
    raise UsageError(f"the store has no model {model!r}{meant}: `modelsync list` shows what it has.")


class NoSuchChain(RefusedError):
    """Every model of the store has a chain of its own, and this one has none: it was never published."""


async def read_states(store: Store, expected_id: str | None = None, *, any_root: bool = False) -> list[State]:
    """All chains of a store, the shared one first."""
    roots = await read_roots(store, expected_id)
    shared = await read_state(store, any_root=any_root, roots=roots)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(model: str) -> State:
        async with slots:
            return await read_state(store, any_root=any_root, roots=roots, chain=model)

    return [shared, *await asyncio.gather(*(one(model) for model in await own_chains(store)))]


async def own_chains(store: Store) -> list[str]:
    """Names of the models that have chains of their own, by what lies in the store; nothing is verified."""
    found = (trust.chain_of_timestamp(path) for path, _ in await store.list("bundles/"))
    return sorted(model for model in found if model is not None)


async def read_model_state(
    store: Store, model: str, expected_id: str | None = None, *, roots: Roots | None = None
) -> State:
    """The chain that speaks for `model`, with its roles and no other model's: its own, else the shared one.

    A model that was never published is in neither: the shared chain, which doesn't delegate it. NoSuchChain if the
    shared chain takes no models any more.
    """
    roots = roots or await read_roots(store, expected_id)
    try:
        tagged = await store.get_tagged(trust.timestamp_object(model))
    except ObjectNotFound:
        return await read_state(store, roots=roots, only=[model])
    return await read_state(store, roots=roots, chain=model, tagged=tagged)


async def read_state(
    store: Store,
    expected_id: str | None = None,
    *,
    any_root: bool = False,
    roots: Roots | None = None,
    chain: str | None = None,
    only: Collection[str] | None = None,
    tagged: Tagged | None = None,
) -> State:
    """Read and verify one chain's current metadata; RefusedError if anything is not signed by whom it should be.

    `expected_id`: the store id that the caller's keys belong to. `any_root` accepts top-level metadata signed for
    an earlier root of the chain (only for finishing an interrupted change of keys). `roots`, `tagged`: the root chain
    and the timestamp, if the caller has read them. `only`: models whose roles are read; NoSuchChain if the shared chain
    says that it has no models. Reads that race with a publisher see one consistent state, since numbered files never
    change.
    """
    roots = roots or await read_roots(store, expected_id)
    delegators = [roots.newest, *reversed(roots.earlier)] if any_root else [roots.newest]
    if tagged is None:
        try:
            tagged = await store.get_tagged(trust.timestamp_object(chain))
        except ObjectNotFound:
            raise RefusedError(f"{store.url} is half made: run `modelsync init` again with the same keys.") from None
    timestamp = _verified(Timestamp, tagged.data, delegators, "timestamp", chain=chain)
    if only is not None and timestamp.signed.unrecognized_fields.get(trust.OWN_CHAINS) is True:
        raise NoSuchChain("the store's models have chains of their own.")
    raw = {"timestamp": tagged.data}

    async def bring(role: str, number: int) -> None:
        raw[role] = await store.get(trust.metadata_object(trust.chain_role(role, chain), number))

    number = timestamp.signed.snapshot_meta.version
    await bring("snapshot", number)
    snapshot = _verified(Snapshot, raw["snapshot"], delegators, "snapshot", number, chain=chain)
    meta = {file.removesuffix(".json"): info.version for file, info in snapshot.signed.meta.items()}
    if "targets" not in meta:
        raise RefusedError("the snapshot does not list the top-level targets: restore the store's metadata.")
    await bring("targets", meta["targets"])
    targets = _verified(Targets, raw["targets"], delegators, "targets", meta["targets"], chain=chain)
    delegated = targets.signed.delegations.roles or {} if targets.signed.delegations else {}
    wanted = [role for role in meta if role in delegated and _is_of(role, only)]
    await asyncio.gather(*(bring(role, meta[role]) for role in wanted))
    roles = {role: _verified(Targets, raw[role], [targets], role, meta[role]) for role in wanted}
    return State(
        roots.first, roots.newest, roots.newest_bytes, timestamp, tagged.etag, snapshot, targets, roles, raw, chain
    )


def _is_of(role: str, only: Collection[str] | None) -> bool:
    """Whether it is a role of one of these models (None: of any)."""
    return only is None or any(role in (trust.role_name(model), trust.archive_name(model)) for model in only)


async def highest_numbers(store: Store) -> dict[str, int]:
    """The highest number of each role's files in the store, referred to or not."""
    highest: dict[str, int] = {}
    for path, _ in await store.list("metadata/"):
        if match := _NAME.fullmatch(path):
            highest[match[2]] = max(int(match[1]), highest.get(match[2], 0))
    return highest


@dataclass(frozen=True, slots=True)
class Roots:
    """A store's chain of roots, verified: the first one's bytes, the newest with its bytes, and all before that."""

    first: bytes
    newest: Metadata[Root]
    newest_bytes: bytes
    earlier: list[Metadata[Root]]


async def read_roots(store: Store, expected_id: str | None = None) -> Roots:
    """The roots, each signed by its predecessor and itself; RefusedError if they are not of the store expected."""
    first = data = await store.get(trust.metadata_object("root", 1))
    if expected_id is not None and store_id(first) != expected_id:
        raise RefusedError("these keys belong to another store: name the right folder with --keys.")
    root = _parse(Root, data, "root")
    _check(root, root, "root", 1)
    earlier: list[Metadata[Root]] = []
    while True:
        number = root.signed.version + 1
        try:
            following = await store.get(trust.metadata_object("root", number))
        except ObjectNotFound:
            return Roots(first, root, data, earlier)
        successor = _parse(Root, following, "root")
        _check(successor, root, "root", number)
        _check(successor, successor, "root", number)
        earlier.append(root)
        root, data = successor, following


def _verified(
    kind: type[_Signed],
    data: bytes,
    delegators: list[Metadata[Root]] | list[Metadata[Targets]],
    role: str,
    number: int | None = None,
    *,
    chain: str | None = None,
) -> Metadata[_Signed]:
    metadata = _parse(kind, data, role)
    if metadata.signed.unrecognized_fields.get(trust.MODEL) != chain:
        raise RefusedError(f"the store's {role} metadata is another model's: restore it from a backup.")
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
