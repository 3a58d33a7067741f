"""Looks at a store, its keys and this machine, and says what fails or soon will, with the command that mends it.

It changes nothing, and reads metadata, bundles and the newest manifests only: `verify` is what reads every byte.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shlex import quote
from typing import Any

from tuf.api.metadata import Metadata

from modelsync_protocol import bundle, caps, names, trust
from modelsync_protocol.errors import FormatError, ModelsyncError, RefusedError
from modelsync_protocol.findings import Finding, good, problem, warning
from modelsync_protocol.native import library
from modelsync_server.publish.listing import read_version
from modelsync_server.scratch.places import scratch_folder
from modelsync_server.store import DirectoryStore, ObjectNotFound, Store, open_store
from modelsync_server.trust import signing
from modelsync_server.trust.keys import OFFLINE, ONLINE, KeyStore, key_folder, store_id
from modelsync_server.trust.metadata import State, catalogue_of, read_states

_SKEW = timedelta(minutes=1)
_LITTLE = 0.05
"""A file system with less than this share free is said to be nearly full."""
_RESERVE_BYTES = 64 * caps.MIB


async def examine(url: str, keys: str | None, now: datetime | None = None) -> list[Finding]:
    """All findings, causes first. `keys` is --keys, or None if the user named none; `now` replaces the clock."""
    moment = now or datetime.now(UTC)
    try:
        store = open_store(url)
        states = await read_states(store)
    except ModelsyncError as error:
        mend = None if error.exit_code != 3 else f"modelsync verify {quote(url)}"
        return [problem("store", str(error), mend, error.exit_code)]
    found = [good("store", f"{store.url} answers, and its metadata is signed by whom it should be.")]
    found += _clock(states, moment)
    found += _expiry(states, moment, url)
    found += _keys(store, states, keys, url)
    formats, largest = await _formats(store, states, url)
    found += formats
    found += _disk(store, largest)
    found += _core()
    return found


def _core() -> Iterator[Finding]:
    fine, text = library.which()
    mend = "pip install --force-reinstall modelsync-core"
    yield good("core", text) if fine else warning("core", text, mend)


def _clock(states: Sequence[State], now: datetime) -> Iterator[Finding]:
    issued = max(_issued(states[0].root), *(_issued(state.timestamp) for state in states))
    if now + _SKEW < issued:
        yield problem(
            "clock",
            f"this machine's clock says {trust.format_time(now)}, and the store was signed later, "
            f"{trust.format_time(issued)}.",
            "timedatectl set-ntp true",
            5,
        )
    else:
        yield good("clock", f"the clock is not behind the store's last signature ({trust.format_time(issued)}).")


def _issued(metadata: Metadata[Any]) -> datetime:
    try:
        return trust.parse_time(metadata.signed.unrecognized_fields.get(trust.ISSUED))
    except FormatError:
        return datetime.min.replace(tzinfo=UTC)


def _expiry(states: Sequence[State], now: datetime, url: str) -> Iterator[Finding]:
    refresh = f"modelsync refresh {quote(url)}"
    daily = f"{refresh}  # let a timer do it daily"
    timestamps, snapshots, targets = [], [], []
    for state in states:
        whose = "" if state.chain is None else f" of {state.chain!r}"
        timestamps.append((f"timestamp{whose}", state.timestamp))
        snapshots.append((f"snapshot{whose}", state.snapshot))
        targets.append((f"targets{whose}", state.targets))
    yield from _one_expiry("timestamp", timestamps, now, daily)
    yield from _one_expiry("snapshot", snapshots, now, daily)
    yield from _one_expiry("models", [item for state in states for item in state.roles.items()], now, refresh)
    for check, roles in (("targets", targets), ("root", [("root", states[0].root)])):
        yield from _one_expiry(check, roles, now, f"{refresh} --keys FOLDER-WITH-OFFLINE-KEYS")


def _one_expiry(check: str, roles: list[tuple[str, Metadata[Any]]], now: datetime, mend: str) -> Iterator[Finding]:
    """One finding for roles that the same command renews: on the one that expires first."""
    if not roles:
        return
    role, metadata = min(roles, key=lambda item: item[1].signed.expires)
    expires: datetime = metadata.signed.expires
    when = trust.format_time(expires)
    if expires <= now:
        yield problem(check, f"the signature of {role} expired {when}: devices refuse what depends on it.", mend, 3)
    elif expires - now < signing.lifetime(check) / 2:
        yield warning(check, f"the signature of {role} is past half its life; it expires {when}.", mend)
    else:
        yield good(check, f"the signature of {role} is good until {when}.")


def _keys(store: Store, states: Sequence[State], option: str | None, url: str) -> Iterator[Finding]:
    identity = store_id(states[0].first_root)
    asked = option is not None or "MODELSYNC_KEYS" in os.environ
    try:
        folder = key_folder(option, store, identity)
        if not asked and not (folder / "keys.json").exists():
            yield good("keys", f"no keys are on this machine ({folder}): it can read the store, and sign nothing.")
            return
        keys = KeyStore.open(folder)
        if keys.store_id != identity:
            raise RefusedError(f"{folder} holds the keys of another store: name the right one with --keys.")
    except ModelsyncError as error:
        yield problem("keys", str(error), f"modelsync doctor {quote(url)} --keys FOLDER", error.exit_code)
        return
    loose = _readable_by_others(folder)
    if loose:
        yield problem(
            "keys",
            f"{loose[0]} is readable by others: {len(loose)} file(s) are, and nothing is signed with them.",
            f"chmod 600 {' '.join(quote(str(path)) for path in loose)}",
            5,
        )
        return
    yield from _who_signs(keys, states, url)


def _readable_by_others(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.glob("*/*.pem")):
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                found.append(path)
        except OSError:
            continue  # gone meanwhile, or not ours to look at: signing says so
    return found


def _who_signs(keys: KeyStore, states: Sequence[State], url: str) -> Iterator[Finding]:
    listing = f"modelsync keys list {quote(url)} --keys {quote(str(keys.folder))}"
    try:
        here = {role: bool(keys.signers(keys.keys_of(role))) for role in (*OFFLINE, *ONLINE)}
        lacking = [role for role in ("timestamp", "snapshot") if not signing.can_sign(keys, role, states[0].root)]
    except ModelsyncError as error:
        yield problem("keys", str(error), listing, error.exit_code)
        return
    lacking += [] if here["models"] else ["models"]
    if lacking:
        yield problem("keys", f"the keys for {', '.join(lacking)} can't sign from {keys.folder}.", listing, 3)
    else:
        yield good("keys", f"publishing and refreshing can sign from {keys.folder}.")
    at_risk = [role for role in OFFLINE if here[role] and (keys.folder / "offline").is_dir()]
    if at_risk and any(state.models() for state in states):
        yield warning(
            "offline keys",
            f"the keys for {' and '.join(at_risk)} lie on this machine, where who breaks in can take the whole store.",
            f"mv {quote(str(keys.folder / 'offline'))} /media/SAFE-PLACE/",
        )


async def _formats(store: Store, states: Sequence[State], url: str) -> tuple[list[Finding], int]:
    """Whether each model's newest version and its bundle are readable and current; and the largest version's bytes."""
    catalogue = catalogue_of(*states)
    of = {state.chain: state for state in states}
    found: list[Finding] = []
    largest = 0
    for name, model in sorted(catalogue.models.items()):
        if not model.versions:
            continue
        version, _ = await read_version(store, model, max(model.versions))
        largest = max(largest, version.size or 0)
        if version.size is None:
            found.append(
                problem(
                    "formats",
                    f"version {version.version} of {name!r} is missing or damaged in the store.",
                    f"modelsync verify {quote(url)}",
                    3,
                )
            )
        found += await _bundle(store, of.get(name, states[0]), name, url)
    if not found:
        found.append(good("formats", f"the newest versions of {len(catalogue.models)} model(s) are readable."))
    return found, largest


async def _bundle(store: Store, state: State, name: str, url: str) -> list[Finding]:
    mend = f"modelsync refresh {quote(url)}"
    try:
        role = bundle.decode(await store.get(names.bundle_object(name))).role
    except ObjectNotFound:
        return [warning("bundles", f"the bundle of {name!r} is missing: devices pay for its parts one by one.", mend)]
    except FormatError as error:
        return [warning("bundles", f"the bundle of {name!r} is damaged ({error})", mend)]
    if role == state.raw[trust.role_name(name)]:
        return []
    return [warning("bundles", f"the bundle of {name!r} is older than the store's signatures.", mend)]


def _disk(store: Store, largest: int) -> Iterator[Finding]:
    places = [("disk", scratch_folder(), 2 * largest, "set TMPDIR to a larger disk")]
    if isinstance(store, DirectoryStore):
        places.insert(0, ("disk", store.root, largest, f"df -h {quote(str(store.root))}"))
        for folder in sorted({store.root, *(path for path in store.root.iterdir() if path.is_dir())}):
            if not os.access(folder, os.W_OK | os.X_OK):
                yield warning("permissions", f"{folder} can't be written by this user.", f"ls -ld {quote(str(folder))}")
                break
        else:
            yield good("permissions", f"{store.root} can be written.")
    for check, place, need, mend in places:
        usage = shutil.disk_usage(place)
        room = f"{place} has {usage.free // caps.MIB:,} MiB free"
        if usage.free < need + _RESERVE_BYTES:
            wanted = (need + _RESERVE_BYTES) // caps.MIB
            yield problem(check, f"{room}; publishing the largest model again may need {wanted:,} MiB.", mend, 5)
        elif usage.free < usage.total * _LITTLE:
            yield warning(check, f"{room}, less than a twentieth of it.", mend)
        else:
            yield good(check, f"{room}.")
