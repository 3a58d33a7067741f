"""Moves the models of the shared chain into chains of their own."""

from __future__ import annotations

from functools import partial

from tuf.api.metadata import Delegations, MetaFile

from modelsync_protocol import trust
from modelsync_protocol.errors import UnreachableError
from modelsync_server.store import StoreConflict
from modelsync_server.trust.chains import begin
from modelsync_server.trust.metadata import Roots, State, own_chains, read_roots, read_state
from modelsync_server.trust.new_target import NewTarget
from modelsync_server.trust.repository import Repository

_ATTEMPTS = 20


async def give_own_chains(repository: Repository) -> list[str]:
    """Move every model of the shared chain into one of its own, and close the shared one; return the models moved.

    First the own chains, then the shared one's end, so that daemons that read own chains are served at every moment;
    the others keep what they run, and are told that the store signs no such model. It needs the offline targets key.
    An interrupted run is finished by the next one.
    """
    moved: set[str] = set()
    for _ in range(_ATTEMPTS):
        roots = await read_roots(repository.store, repository.keys.store_id)
        shared = await read_state(repository.store, roots=roots)
        own = set(await own_chains(repository.store))
        for model in shared.models():
            if model in own:
                await _catch_up(repository, shared, model)
            else:
                await _copy(repository, shared, roots, model)
            moved.add(model)
        try:
            await repository.commit(partial(_close, seen=shared), bundles=False)
        except StoreConflict:
            continue
        for model in sorted(moved):
            await repository.commit(lambda _: (), chain=model)
        return sorted(moved)
    raise UnreachableError("others kept publishing; run the command again when they have finished.")


async def _copy(repository: Repository, shared: State, roots: Roots, model: str) -> None:
    """Begin the model's own chain with the very roles of the shared one."""
    state = begin(roots, model)
    names = (trust.role_name(model), trust.archive_name(model))
    known = shared.targets.signed.delegations
    delegated = {name: known.roles[name] for name in names if known and known.roles and name in known.roles}
    keyids = {keyid for role in delegated.values() for keyid in role.keyids}
    keys = {keyid: key for keyid, key in known.keys.items() if keyid in keyids} if known else {}
    state.targets.signed.delegations = Delegations(keys, delegated)
    for name in names:
        if name in shared.roles:
            state.roles[name], state.raw[name] = shared.roles[name], shared.raw[name]
            state.snapshot.signed.meta[f"{name}.json"] = MetaFile(shared.roles[name].signed.version)
    await repository.write(state, {"targets"}, [roots.newest])


async def _catch_up(repository: Repository, shared: State, model: str) -> None:
    """Sign in the model's own chain what somebody published in the shared one after it was copied."""
    known = await repository.model(model)
    assert known is not None
    releases, requires = shared.releases(model), shared.requires(model)
    missing = [
        NewTarget(
            model,
            version,
            str(target["hashes"]["sha256"]),
            int(target["length"]),
            target.get("custom"),
            releases.get(version),
            requires.get(version),
        )
        for version, target in shared.versions(model).items()
        if version not in known.versions and version not in known.withdrawn and version > known.pruned
    ]
    if missing:
        await repository.add_targets(missing)


def _close(state: State, seen: State) -> set[str]:
    """Take all models out of the shared targets; StoreConflict if one was published meanwhile."""
    if {name: role.signed.version for name, role in state.roles.items()} != {
        name: role.signed.version for name, role in seen.roles.items()
    }:
        raise StoreConflict(trust.TIMESTAMP_OBJECT, "has changed meanwhile")
    state.timestamp.signed.unrecognized_fields[trust.OWN_CHAINS] = True
    state.targets.signed.delegations = None
    return {"targets"}
