"""Changing a store's signed metadata: publish, withdraw, refresh. Reading is metadata.py, keys are rotation.py.

Every change is: read and verify, change, write the roles, then the snapshot (all create-only), then replace the
timestamp if it is still the one that was read, then the bundles. Who comes second meets a conflict and starts
again from what the first one wrote, so nothing is lost; what a crash leaves is never referred to.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, TargetFile, Targets

from modelsync_protocol import caps, names, trust
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_protocol.requirements import terms
from modelsync_server.store import Store, StoreConflict
from modelsync_server.trust import signing
from modelsync_server.trust.bundles import Offers, write_bundles
from modelsync_server.trust.keys import KeyStore, key_folder, store_id
from modelsync_server.trust.metadata import Catalogue, State, catalogue_of, read_state

_ATTEMPTS = 40
_PAUSE = 0.02
"""Conflicts before giving up, and the mean pause between two attempts (seconds, growing)."""


@dataclass(frozen=True, slots=True)
class NewTarget:
    """A version to sign: `digest` is the manifest's, `length` the size of its canonical JSON in bytes; `custom` is
    signed with it (small; it travels with every check-in), and so is `release`, the digest of its release record,
    where devices don't meet it. `requires` is what it requires of a device. Signing a version again with another record
    or other requirements (None: no word on them) replaces them."""

    model: str
    version: int
    digest: str
    length: int
    custom: Mapping[str, Any] | None = None
    release: str | None = None
    requires: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        names.check_model_name(self.model)
        names.check_version(self.version)
        names.check_digest(self.digest)
        if self.release is not None:
            names.check_digest(self.release)
        if self.requires is not None:
            terms.encode(self.requires)
        if not 0 < self.length <= caps.MAX_MANIFEST_BYTES:
            raise FormatError(f"a manifest of {self.length} bytes is not allowed; the limit is 16 MiB.")


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a refresh did: until when the timestamp is believed, and sentences for the operator."""

    expires: datetime
    warnings: tuple[str, ...]


class Repository:
    """The signed metadata of one store, opened with keys. Methods may be called by many publishers at once."""

    def __init__(self, store: Store, keys: KeyStore, offers: Offers | None = None) -> None:
        self.store = store
        self.keys = keys
        self._offers = offers

    @classmethod
    async def open(cls, store: Store, keys: str | None = None, offers: Offers | None = None) -> Repository:
        """Open `store` with the key folder `keys` (see keys.key_folder).

        RefusedError without keys, or if they are another store's; UsageError if they lie inside the store.
        """
        identity = store_id(await store.get(trust.metadata_object("root", 1)))
        folder = KeyStore.open(key_folder(keys, store, identity))
        if folder.store_id != identity:
            raise RefusedError(f"{folder.folder} holds the keys of another store: name the right one with --keys.")
        return cls(store, folder, offers)

    async def catalogue(self) -> Catalogue:
        """Everything that is signed, verified now."""
        return catalogue_of(await read_state(self.store, self.keys.store_id))

    async def add_targets(self, targets: Sequence[NewTarget]) -> Catalogue:
        """Sign all `targets` in one commit; signing the same again changes nothing.

        RefusedError if a version exists with another digest or was withdrawn, or if a model is new and the
        targets key is not here.
        """

        def change(state: State) -> set[str]:
            changed: set[str] = set()
            for model in dict.fromkeys(target.model for target in targets):
                changed |= self._add(state, model, [target for target in targets if target.model == model])
            return changed

        return catalogue_of(await self.commit(change))

    async def withdraw(self, model: str, version: int) -> Catalogue:
        """Take a version back: devices must not fetch or activate it again. Repeating it changes nothing."""

        def change(state: State) -> set[str]:
            live, withdrawn = state.versions(model), state.withdrawn(model)
            if version in withdrawn:
                return set()
            if version not in live:
                raise UsageError(f"the store has no version {version} of {model!r}: see `modelsync list`.")
            role = state.roles[trust.role_name(model)].signed
            role.unrecognized_fields[trust.WITHDRAWN] = sorted([*withdrawn, version])
            remaining = {number: _target(model, number, json) for number, json in live.items() if number != version}
            return _distribute(state, model, remaining, state.requires(model)) | {trust.role_name(model)}

        return catalogue_of(await self.commit(change))

    async def refresh(self) -> RefreshReport:
        """Sign timestamp and snapshot again, and whatever is past its half-life if its keys are here."""
        warnings: list[str] = []
        state = await read_state(self.store, self.keys.store_id)
        for role, metadata in (("timestamp", state.timestamp), ("snapshot", state.snapshot)):
            if signing.past_half_life(metadata, role):
                warnings.append(
                    f"the {role} was past its half-life (it expires {_when(metadata)}): "
                    "let a timer run `modelsync refresh` daily."
                )
        if signing.past_half_life(state.root, "root"):
            if signing.can_sign(self.keys, "root", state.root):
                await self.write_root(state, state.root)
            else:
                warnings.append(_bring("root", state.root))

        def change(state: State) -> set[str]:
            changed = {role for role, meta in state.roles.items() if signing.past_half_life(meta, role)}
            if signing.past_half_life(state.targets, "targets"):
                if signing.can_sign(self.keys, "targets", state.root):
                    changed.add("targets")
                elif (sentence := _bring("targets", state.targets)) not in warnings:
                    warnings.append(sentence)
            return changed

        state = await self.commit(change, always=True)
        return RefreshReport(state.timestamp.signed.expires, tuple(warnings))

    async def commit(
        self,
        change: Callable[[State], Iterable[str]],
        *,
        always: bool = False,
        roots: Sequence[Metadata[Root]] | None = None,
        any_root: bool = False,
        bundles: bool = True,
    ) -> State:
        """Apply `change` (it alters the state's metadata and names the altered roles), write, and retry conflicts.

        With `always` snapshot and timestamp are written even if nothing changed. `roots`: sign top-level roles for
        each of these roots instead of the current one; `any_root`: see read_state.
        """
        for attempt in range(_ATTEMPTS):
            state = await read_state(self.store, self.keys.store_id, any_root=any_root)
            changed = set(change(state))
            try:
                if changed or always:
                    await self._write(state, changed, roots or [state.root])
            except StoreConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0, 2 * _PAUSE * (attempt + 1)))
                continue
            if bundles:
                await write_bundles(self.store, state, self._offers)
            return state
        raise AssertionError("the loop above returns or raises")

    async def write_root(self, state: State, successor: Metadata[Root]) -> None:
        """Create the next root, signed for the current and the new keys; StoreConflict if somebody else did."""
        old = Metadata[Root].from_bytes(state.root_bytes)
        successor.signed.version = old.signed.version + 1
        data = signing.sign(successor, "root", [old, successor], self.keys)
        await self.store.create(trust.metadata_object("root", successor.signed.version), data)

    async def _write(self, state: State, changed: Iterable[str], roots: Sequence[Metadata[Root]]) -> None:
        for role in sorted(changed):
            metadata = state.targets if role == "targets" else state.roles[role]
            data = self._sign_next(state, metadata, role, roots if role == "targets" else [state.targets])
            await self.store.create(trust.metadata_object(role, metadata.signed.version), data)
            state.raw[role] = data
            state.snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
        data = self._sign_next(state, state.snapshot, "snapshot", roots)
        number = state.snapshot.signed.version
        await self.store.create(trust.metadata_object("snapshot", number), data)
        state.raw["snapshot"] = data
        state.timestamp.signed.snapshot_meta = MetaFile(number)
        state.timestamp.signed.version += 1
        data = signing.sign(state.timestamp, "timestamp", roots, self.keys)
        state.etag = await self.store.replace(trust.TIMESTAMP_OBJECT, data, state.etag)
        state.raw["timestamp"] = data

    def _sign_next(
        self, state: State, metadata: Metadata[Any], role: str, delegators: Sequence[signing.Delegator]
    ) -> bytes:
        """Sign `metadata` under the next free number: a crashed publisher's leftovers are skipped."""
        metadata.signed.version = max(state.highest.get(role, 0), metadata.signed.version) + 1
        return signing.sign(metadata, role, delegators, self.keys)

    def _add(self, state: State, model: str, targets: Sequence[NewTarget]) -> set[str]:
        changed: set[str] = set()
        if trust.role_name(model) not in state.roles:
            self._delegate(state, model)
            changed |= {"targets", trust.role_name(model)}
        live, withdrawn = state.versions(model), state.withdrawn(model)
        wanted = {number: _target(model, number, json) for number, json in live.items()}
        for target in targets:
            if target.version in withdrawn:
                raise RefusedError(f"version {target.version} of {model!r} was withdrawn: publish a new version.")
            if (known := wanted.get(target.version)) is not None:
                if known.hashes["sha256"] != target.digest:
                    raise RefusedError(
                        f"version {target.version} of {model!r} exists with another content: publish a new version."
                    )
                continue
            path = names.target_path(model, target.version)
            extra = {"custom": dict(target.custom)} if target.custom else None
            wanted[target.version] = TargetFile(target.length, {"sha256": target.digest}, path, extra)
        stated = {target.version: target.requires for target in targets if target.requires is not None}
        changed |= _distribute(state, model, wanted, {**state.requires(model), **stated})
        return changed | _record_releases(state, model, targets)

    def _delegate(self, state: State, model: str) -> None:
        """Let the model keys sign for a new model; only the targets key can say so."""
        if not signing.can_sign(self.keys, "targets", state.root):
            raise RefusedError(
                f"{model!r} is a new model and the targets key is not in {self.keys.folder}: "
                "publish its first version from where the offline keys are."
            )
        delegations = state.targets.signed.delegations or Delegations({}, {})
        roles = dict(delegations.roles or {})
        for role in (trust.role_name(model), trust.archive_name(model)):
            roles[role] = DelegatedRole(role, [], 1, terminating=False, paths=[f"{model}/*"])
        delegations.roles = roles
        state.targets.signed.delegations = delegations
        for role in (trust.role_name(model), trust.archive_name(model)):
            for key in self.keys.keys_of("models"):
                state.targets.signed.add_key(key, role)
        _begin(state, trust.role_name(model))


def _distribute(
    state: State, model: str, targets: Mapping[int, TargetFile], requires: Mapping[int, Mapping[str, str]]
) -> set[str]:
    """Put the newest versions into the model's role and the others into its archive, each with what is required of
    devices; return the changed roles."""
    newest = sorted(targets, reverse=True)[: trust.LISTED_VERSIONS]
    changed = set()
    for role, numbers in (
        (trust.role_name(model), newest),
        (trust.archive_name(model), [number for number in targets if number not in newest]),
    ):
        wanted = {names.target_path(model, number): targets[number] for number in numbers}
        if role not in state.roles:
            if not wanted:
                continue
            _begin(state, role)
        signed = state.roles[role].signed
        spelled = terms.spell_versions({number: requires.get(number, {}) for number in numbers})
        if signed.targets != wanted or signed.unrecognized_fields.get(trust.REQUIRES) != spelled:
            signed.targets = wanted
            signed.unrecognized_fields.pop(trust.REQUIRES, None)
            signed.unrecognized_fields |= {} if spelled is None else {trust.REQUIRES: spelled}
            changed.add(role)
    return changed


def _record_releases(state: State, model: str, targets: Sequence[NewTarget]) -> set[str]:
    """Name the targets' release records in the model's archive; return the archive's role if that changes it."""
    role = trust.archive_name(model)
    known = state.releases(model)
    wanted = known | {target.version: target.release for target in targets if target.release is not None}
    if wanted == known:
        return set()
    if role not in state.roles:
        _begin(state, role)
    fields = state.roles[role].signed.unrecognized_fields
    fields[trust.RELEASES] = {str(version): wanted[version] for version in sorted(wanted)}
    return {role}


def _begin(state: State, role: str) -> None:
    """Give `role` metadata of its own, which `_sign_next` numbers from 1 on."""
    state.roles[role] = Metadata(Targets(version=1))
    state.roles[role].signed.version = 0


def _target(model: str, version: int, json: Mapping[str, Any]) -> TargetFile:
    return TargetFile.from_dict(dict(json), names.target_path(model, version))


def _when(metadata: Metadata[Any]) -> str:
    return trust.format_time(metadata.signed.expires)


def _bring(role: str, metadata: Metadata[Any]) -> str:
    return (
        f"the {role} metadata expires {_when(metadata)} and its keys are not here: "
        "run `modelsync refresh` once with the offline keys."
    )
