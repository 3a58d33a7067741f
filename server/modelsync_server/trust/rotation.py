"""Changing who signs: adding, replacing and revoking keys, as the root and targets roles say (DESIGN §4).

`keys.json` says who should sign; `reconcile` makes the signed metadata say the same. An interrupted change is
finished by running any change again: the wish is saved first, and new private keys before anything names them.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from functools import partial

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.store import StoreConflict
from modelsync_server.trust import signing
from modelsync_server.trust.keys import ONLINE, ROLES, Entry
from modelsync_server.trust.metadata import State, own_chains, read_state
from modelsync_server.trust.repository import Repository

_TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
_ATTEMPTS = 20
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key: its id, the roles that it signs for, its signer's URI, and whether it can sign here."""

    keyid: str
    roles: tuple[str, ...]
    uri: str
    here: bool


def roles_named(name: str) -> tuple[str, ...]:
    """The roles that a user's word means: one of ROLES, or `online` for all three online ones; UsageError."""
    if name == "online":
        return ONLINE
    if name not in ROLES:
        raise UsageError(f"{name!r} is no role: use online, {', '.join(ROLES)}.")
    return (name,)


async def add_key(repository: Repository, name: str, entry: Entry | None = None) -> list[str]:
    """Let one more key sign for the named role: `entry` (any signer), else a new file; return its key id."""
    roles = roles_named(name)
    keyids = _add(repository, roles, entry)
    repository.keys.save()
    await reconcile(repository)
    return keyids


async def rotate(repository: Repository, name: str) -> list[str]:
    """Replace all keys of the named role by as many new ones (at least its threshold); return their key ids."""
    roles = roles_named(name)
    old = {role: [key.keyid for key in repository.keys.keys_of(role)] for role in roles}
    count = max(len(keyids) for keyids in old.values())
    new = [keyid for _ in range(max(count, 1)) for keyid in _add(repository, roles, None)]
    for role, keyids in old.items():
        repository.keys.drop(role, keyids)
    repository.keys.save()
    await reconcile(repository)
    return new


async def revoke(repository: Repository, keyid: str) -> list[str]:
    """Let the key (its id or the beginning of it) sign for nothing any more; return the roles that it leaves.

    UsageError if no key or several match; RefusedError if a role would be left with fewer keys than must sign.
    """
    keys = repository.keys
    everywhere = {entry.key.keyid for entries in keys.roles.values() for entry in entries}
    matching = sorted(full for full in everywhere if full.startswith(keyid))
    if not keyid or len(matching) != 1:
        raise UsageError(f"{len(matching)} keys begin with {keyid!r}: `modelsync keys list` shows them.")
    leaving = [role for role in ROLES if any(key.keyid == matching[0] for key in keys.keys_of(role))]
    state = await read_state(repository.store, keys.store_id, any_root=True)
    for role in leaving:
        needed = 1 if role == "models" else state.root.signed.roles[role].threshold
        if len(keys.keys_of(role)) - 1 < needed:
            raise RefusedError(
                f"{role} would have fewer keys than must sign: run `modelsync keys rotate` for it instead, "
                "which replaces them."
            )
    for role in leaving:
        keys.drop(role, matching)
    keys.save()
    await reconcile(repository)
    return leaving


async def reconcile(repository: Repository) -> None:
    """Make root and targets name the keys of `keys.json`, and sign everything by them; may be repeated.

    Order, so that devices with the old root and with the new one are served at every moment: timestamp, snapshot
    and targets signed by old and new keys; the next root; then all signed by the new keys alone. If the old
    online keys are lost, the first step can't be: devices are refused until the last step, and try again.
    """
    for attempt in range(_ATTEMPTS):
        state = await read_state(repository.store, repository.keys.store_id, any_root=True)
        chains = (None, *await own_chains(repository.store))
        wanted, different = _wanted_root(repository, state)
        try:
            if different - {"root"} and _can_sign(repository, state, different - {"root"}):
                for chain in chains:
                    await repository.commit(
                        partial(_same, different & {"targets"}),
                        chain=chain,
                        roots=[state.root, wanted],
                        any_root=True,
                        always=True,
                        bundles=False,
                    )
            if different:
                await repository.write_root(state, wanted)
            break
        except StoreConflict:
            if attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(random.uniform(0, _PAUSE * (attempt + 1)))
    for chain in chains:
        await repository.commit(
            lambda state: _to_sign_again(repository, state), chain=chain, always=True, any_root=True
        )


def _add(repository: Repository, roles: tuple[str, ...], entry: Entry | None) -> list[str]:
    if entry is None:
        signer = CryptoSigner.generate_ed25519()
        for role in roles:
            repository.keys.add(role, signer)
        return [signer.public_key.keyid]
    for role in roles:
        repository.keys.add_entry(role, entry)
    return [entry.key.keyid]


def _wanted_root(repository: Repository, state: State) -> tuple[Metadata[Root], set[str]]:
    """A root that names the keys of `keys.json`, and the top-level roles whose keys differ from the current one."""
    wanted: Metadata[Root] = Metadata[Root].from_bytes(state.root_bytes)
    different = set()
    for role in _TOP_LEVEL:
        keys = {key.keyid: key for key in repository.keys.keys_of(role)}
        present = set(wanted.signed.roles[role].keyids)
        if present != set(keys):
            different.add(role)
        for keyid in present - set(keys):
            wanted.signed.revoke_key(keyid, role)
        for keyid in keys.keys() - present:
            wanted.signed.add_key(keys[keyid], role)
    return wanted, different


def _same(roles: set[str], _: State) -> set[str]:
    return roles


def _can_sign(repository: Repository, state: State, roles: set[str]) -> bool:
    return all(signing.can_sign(repository.keys, role, state.root) for role in roles)


def _to_sign_again(repository: Repository, state: State) -> set[str]:
    """The targets roles whose delegation changes now, and the top-level targets if others than its keys signed."""
    changed = _delegate_again(repository, state)
    named = set(state.root.signed.roles["targets"].keyids)
    return changed if set(state.targets.signatures) <= named else changed | {"targets"}


def _delegate_again(repository: Repository, state: State) -> set[str]:
    """Let every model's roles be signed by the `models` keys; return the roles that must be signed anew."""
    delegations = state.targets.signed.delegations
    wanted: dict[str, Key] = {key.keyid: key for key in repository.keys.keys_of("models")}
    changed: set[str] = set()
    for name, role in (delegations.roles or {}).items() if delegations else ():
        if set(role.keyids) == set(wanted):
            continue
        for keyid in list(role.keyids):
            if keyid not in wanted:
                state.targets.signed.revoke_key(keyid, name)
        for keyid, key in wanted.items():
            if keyid not in role.keyids:
                state.targets.signed.add_key(key, name)
        changed.add(name)
    return {name for name in changed if name in state.roles} | ({"targets"} if changed else set())


def describe(repository: Repository) -> list[KeyUse]:
    """Every key, in the order of the roles."""
    keys = repository.keys
    found: dict[str, KeyUse] = {}
    for role in ROLES:
        for entry in keys.roles[role]:
            known = found.get(entry.key.keyid)
            roles = (*known.roles, role) if known else (role,)
            here = known.here if known else bool(keys.signers([entry.key]))
            found[entry.key.keyid] = KeyUse(entry.key.keyid, roles, entry.uri, here)
    return list(found.values())
