"""Changing a store's signed metadata: publish, withdraw, refresh. Reading is metadata.py, keys are rotation.py.

Every change is of one chain: read and verify it, change, write the roles, then the snapshot (all create-only), then
replace the timestamp if it is still the one that was read, then the bundles of the models that changed. Who comes
second meets a conflict and starts again from what the first one wrote, so nothing is lost; what a crash leaves is
never referred to. What it costs grows with no other model (docs/adr/0055-a-chain-for-each-model.md).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    TargetFile,
    Targets,
)

from modelsync_protocol import names, trust
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_protocol.requirements import terms
from modelsync_server.store import AlreadyExists, Store, StoreConflict
from modelsync_server.trust import chains, refreshing, signing
from modelsync_server.trust.bundles import Offers, newest_digests, write_bundles
from modelsync_server.trust.keys import KeyStore, key_folder, store_id
from modelsync_server.trust.metadata import (
    Catalogue,
    ModelVersions,
    NoSuchChain,
    State,
    catalogue_of,
    own_chains,
    read_model_state,
    read_roots,
    read_state,
    read_states,
)
from modelsync_server.trust.new_target import NewTarget
from modelsync_server.trust.refreshing import RefreshReport

_ATTEMPTS = 40
_PAUSE = 0.02
"""Conflicts before giving up, and the mean pause between two attempts (seconds, growing)."""


_AT_ONCE = 8
"""Chains that are refreshed together."""


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
        """Everything that is signed, verified now; O(models)."""
        return catalogue_of(*await read_states(self.store, self.keys.store_id))

    async def model(self, name: str) -> ModelVersions | None:
        """What is signed of one model, verified now, in as many requests whatever else there is; None if it is new."""
        try:
            state = await read_model_state(self.store, name, self.keys.store_id)
        except NoSuchChain:
            return None
        return catalogue_of(state).models.get(name)

    async def add_targets(self, targets: Sequence[NewTarget]) -> Catalogue:
        """Sign all `targets`, those of a chain in one commit; signing the same again changes nothing.

        Returns the listing of their models. RefusedError if a version exists with another digest or was withdrawn, or
        if a model is new and the targets key is not here.
        """

        def change(models: Sequence[str], state: State) -> set[str]:
            changed: set[str] = set()
            for model in models:
                changed |= self._add(state, model, [target for target in targets if target.model == model])
            return changed

        groups = await self._groups(list(dict.fromkeys(target.model for target in targets)))
        states = [await self.commit(partial(change, models), models=models) for models in groups]
        return catalogue_of(*states)

    async def _groups(self, models: Sequence[str]) -> list[list[str]]:
        """Models that are changed together: those of the shared chain; each other by itself."""
        if len(models) < 2:
            return [list(models)]
        roots = await read_roots(self.store, self.keys.store_id)
        own = set(await own_chains(self.store))
        try:
            known = set((await read_state(self.store, roots=roots, only=[])).models()) - own
            room = trust.SHARED_MODELS - len(known)
        except NoSuchChain:
            known, room = set(), 0
        shared: list[str] = []
        for model in models:
            if model in known or (model not in own and room > 0):
                room -= model not in known
                shared.append(model)
        return [*([shared] if shared else []), *([model] for model in models if model not in shared)]

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

        return catalogue_of(await self.commit(change, models=[model]))

    async def prune(self, model: str, versions: Collection[int]) -> None:
        """Take versions out of what is signed without withdrawing them: who runs one goes on. Repeating it changes
        nothing. UsageError for the newest version, which always stays."""

        def change(state: State) -> set[str]:
            live = state.versions(model)
            going = set(versions) & set(live)
            if not going:
                return set()
            if max(live) in going:
                raise UsageError(f"version {max(live)} is the newest of {model!r}, and that always stays.")
            remaining = {number: _target(model, number, json) for number, json in live.items() if number not in going}
            return _distribute(state, model, remaining, state.requires(model)) | _record_pruned(state, model, going)

        await self.commit(change, models=[model])

    async def refresh(
        self, progress: Callable[[str, int, int], None] = lambda step, done, total: None
    ) -> RefreshReport:
        """Sign timestamps and snapshots again, and whatever is past its half-life if its keys are here. O(models)."""
        progress("reading metadata", 0, 1)
        states = await read_states(self.store, self.keys.store_id)
        warnings = list(refreshing.late(states))
        root = states[0].root
        if signing.past_half_life(root, "root"):
            if signing.can_sign(self.keys, "root", root):
                await self.write_root(states[0], root)
            else:
                warnings.append(refreshing.bring("root", root))
        slots = asyncio.Semaphore(_AT_ONCE)
        due = partial(refreshing.due, keys=self.keys, warnings=warnings)
        present = [path for path, _ in await self.store.list("bundles/")]

        signed = 0

        async def one(chain: str) -> State:
            nonlocal signed
            async with slots:
                state = await self.commit(due, chain=chain, always=True, present=present)
            signed += 1
            progress(f"signing, {signed} of {len(states)}", 0, 1)
            return state

        done = await asyncio.gather(*(one(state.chain) for state in states if state.chain is not None))

        def shared(state: State) -> set[str]:
            refreshing.pass_by(state, done)
            return due(state)

        done = [await self.commit(shared, always=True, present=present), *done]
        return RefreshReport(min(state.timestamp.signed.expires for state in done), tuple(warnings))

    async def commit(
        self,
        change: Callable[[State], Iterable[str]],
        *,
        models: Sequence[str] | None = None,
        chain: str | None = None,
        always: bool = False,
        roots: Sequence[Metadata[Root]] | None = None,
        any_root: bool = False,
        bundles: bool = True,
        present: Sequence[str] | None = None,
    ) -> State:
        """Apply `change` (it alters the state's metadata and names the altered roles), write, and retry conflicts.

        What is changed is the chain of these `models`, of which nothing else is read (several must be of the shared
        one), or all of one `chain`. With `always` snapshot and timestamp are written even if nothing changed. `roots`:
        sign top-level roles for each of these roots instead of the current one; `any_root`: see read_state. `present`:
        what lies below bundles/, if the caller has looked.
        """
        for attempt in range(_ATTEMPTS):
            state = await self._read(models, chain, any_root)
            before = {model: newest_digests(state, model) for model in models or ()}
            changed = set(change(state))
            try:
                if changed or always:
                    await self.write(state, changed, roots or [state.root])
            except StoreConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0, 2 * _PAUSE * (attempt + 1)))
                continue
            if bundles:
                # Signing the same again mends what a crash left, so it looks what lies there.
                known = before if changed and models is not None else None
                await write_bundles(self.store, state, self._offers, models, known, present)
            return state
        raise AssertionError("the loop above returns or raises")

    async def _read(self, models: Sequence[str] | None, chain: str | None, any_root: bool) -> State:
        roots = await read_roots(self.store, self.keys.store_id)
        if models is None:
            return await read_state(self.store, roots=roots, any_root=any_root, chain=chain)
        if len(models) > 1:
            return await read_state(self.store, roots=roots, only=models)
        (model,) = models
        try:
            state = await read_model_state(self.store, model, roots=roots)
        except NoSuchChain:
            return chains.begin(roots, model)
        if state.chain is None and model not in (known := state.models()) and len(known) >= trust.SHARED_MODELS:
            return chains.begin(roots, model)
        return state

    async def write_root(self, state: State, successor: Metadata[Root]) -> None:
        """Create the next root, signed for the current and the new keys; StoreConflict if somebody else did."""
        old = Metadata[Root].from_bytes(state.root_bytes)
        successor.signed.version = old.signed.version + 1
        data = signing.sign(successor, "root", [old, successor], self.keys)
        await self.store.create(trust.metadata_object("root", successor.signed.version), data)

    async def write(self, state: State, changed: Iterable[str], roots: Sequence[Metadata[Root]]) -> None:
        """Sign and write the roles that `changed`, then the chain's snapshot and timestamp; StoreConflict."""
        for role in sorted(changed):
            metadata = state.targets if role == "targets" else state.roles[role]
            await self._put(state, metadata, role, roots if role == "targets" else [state.targets])
            state.snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
        await self._put(state, state.snapshot, "snapshot", roots)
        state.timestamp.signed.snapshot_meta = MetaFile(state.snapshot.signed.version)
        state.timestamp.signed.version += 1
        data = signing.sign(state.timestamp, "timestamp", roots, self.keys)
        if state.etag is None:
            await self.store.create(state.timestamp_path, data)
            state.etag = (await self.store.stat(state.timestamp_path)).etag
        else:
            state.etag = await self.store.replace(state.timestamp_path, data, state.etag)
        state.raw["timestamp"] = data

    async def _put(
        self, state: State, metadata: Metadata[Any], role: str, delegators: Sequence[signing.Delegator]
    ) -> None:
        """Sign `metadata` and write it under the next free number, past what crashed or slower publishers left."""
        while True:
            metadata.signed.version += 1
            data = signing.sign(metadata, role, delegators, self.keys)
            try:
                await self.store.create(state.path(role, metadata.signed.version), data)
            except AlreadyExists:
                continue
            state.raw[role] = data
            return

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
            if target.version <= state.pruned(model):
                raise RefusedError(f"version {target.version} of {model!r} was pruned: publish a new version.")
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


def _record_pruned(state: State, model: str, versions: Collection[int]) -> set[str]:
    """Note in the model's archive up to where versions were pruned, and forget their release records; its role."""
    role = trust.archive_name(model)
    if role not in state.roles:
        _begin(state, role)
    fields = state.roles[role].signed.unrecognized_fields
    fields[trust.PRUNED] = max(state.pruned(model), *versions)
    if trust.RELEASES in fields:
        known = {version: digest for version, digest in state.releases(model).items() if version not in versions}
        fields[trust.RELEASES] = {str(version): known[version] for version in sorted(known)}
    return {role}


def _begin(state: State, role: str) -> None:
    """Give `role` metadata of its own, which `_put` numbers from 1 on."""
    state.roles[role] = Metadata(Targets(version=1))
    state.roles[role].signed.version = 0


def _target(model: str, version: int, json: Mapping[str, Any]) -> TargetFile:
    return TargetFile.from_dict(dict(json), names.target_path(model, version))
