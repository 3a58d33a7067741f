"""`modelsync retain`: says what a policy would prune, what that frees and whom it leaves without what; then prunes.

Pruning signs that the versions are gone and takes away the updates that start at them; `collecting` frees the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelsync_protocol import names
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.publish.price import offers_section
from modelsync_server.retention import policy
from modelsync_server.retention.policy import Policy, Use
from modelsync_server.retention.references import Progress, inventory, kept
from modelsync_server.store import Store
from modelsync_server.trust import Catalogue, Repository, catalogue_for, read_catalogue

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Stranded:
    """`devices` that report or are to run `version` (None: bytes that the store doesn't sign), and what they lose."""

    model: str
    version: int | None
    devices: int
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Versions to `prune` by model, oldest first; `objects` and `bytes` that nothing needs afterwards; `stays` bytes of
    what live versions need; whom it strands; `digests` of what goes, by which applying it sees that nothing changed."""

    prune: Mapping[str, Sequence[int]]
    objects: int
    bytes: int
    stays: int
    stranded: Sequence[Stranded]
    digests: Mapping[str, Mapping[int, str]]
    earlier: Sequence[str]
    """Models that were pruned before: their bundles are looked at again, in case that was broken off."""


async def plan(
    store: Store,
    rule: Policy,
    uses: Mapping[str, Use],
    model: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Plan:
    """What the policy would do to one model or to all. UsageError for one that says nothing, or an unknown model."""
    if rule.keep is None and rule.max_bytes is None:
        raise UsageError("say what to keep: --keep VERSIONS, or --max-bytes BYTES.")
    if model is not None:
        (await catalogue_for(store, model)).model(model)
    progress("reading metadata", 0, 1)
    catalogue = await read_catalogue(store)
    chosen = {name: found.versions for name, found in catalogue.models.items() if model in (None, name)}
    found = await inventory(store, catalogue, progress)
    others = {d for name, m in catalogue.models.items() if name not in chosen for d in m.versions.values()}
    fixed = sum(found.sizes.get(path, 0) for path in kept(found, catalogue, others)) if others else 0
    going = policy.choose(chosen, uses, rule, found.needs, fixed)
    digests = {name: {version: chosen[name][version] for version in versions} for name, versions in going.items()}
    before = kept(found, catalogue, set(found.needs))
    gone = _digests_gone(catalogue, going)
    after = kept(found, catalogue, set(found.needs) - gone)
    freed = (before - after) | _updates_from(found.sizes, gone)
    return Plan(
        going,
        len(freed),
        sum(found.sizes[path] for path in freed),
        sum(found.sizes[path] for path in after - freed),
        tuple(_stranded(chosen, going, uses, found.sizes, gone)),
        digests,
        [name for name in chosen if catalogue.models[name].pruned and name not in going],
    )


async def prune(
    store: Store, keys: str | None, made: Plan, progress: Progress = lambda stage, done, total: None
) -> None:
    """Carry a plan out; may be repeated. RefusedError, and nothing more is pruned, if a version is another by now."""

    async def offers(_: str, versions: Mapping[int, str]) -> bytes:
        return await offers_section(store, versions)

    repository = await Repository.open(store, keys, offers)
    catalogue = await read_catalogue(store)
    for name, digests in made.digests.items():
        live = catalogue.model(name).versions
        if any(live.get(version, digest) != digest for version, digest in digests.items()):
            raise RefusedError(f"{name} has changed since the plan was made: look at a new one.")
    gone = _digests_gone(catalogue, made.prune)
    sizes = dict(await store.list("updates/"))
    # Updates first: what breaks off here is planned and done again, and signing writes offers of what is left.
    going = _updates_from(sizes, gone)
    deleted, total = 0, sum(sizes[path] for path in going)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(path: str) -> None:
        nonlocal deleted
        async with slots:
            await store.delete(path)
        deleted += sizes[path]
        progress("deleting updates", deleted, total)

    await asyncio.gather(*map(one, sorted(going)))
    signed = [*((name, sorted(digests)) for name, digests in made.digests.items()), *((n, []) for n in made.earlier)]
    for number, (name, versions) in enumerate(signed, 1):
        progress(f"signing, model {number} of {len(signed)}", 0, 1)
        await repository.prune(name, versions)


def _digests_gone(catalogue: Catalogue, going: Mapping[str, Sequence[int]]) -> set[str]:
    """Manifest digests of pruned versions that no version which stays has too."""
    gone, stays = set[str](), set[str]()
    for name, model in catalogue.models.items():
        for version, digest in model.versions.items():
            (gone if version in going.get(name, ()) else stays).add(digest)
    return gone - stays


def _updates_from(sizes: Mapping[str, int], digests: set[str]) -> set[str]:
    """Update objects that start at one of these manifests."""
    return {
        path for path in sizes if path.startswith("updates/") and path.rpartition("/")[2].partition(".")[0] in digests
    }


def _stranded(
    models: Mapping[str, Mapping[int, str]],
    going: Mapping[str, Sequence[int]],
    uses: Mapping[str, Use],
    sizes: Mapping[str, int],
    gone: set[str],
) -> list[Stranded]:
    found = []
    for name, versions in models.items():
        if name not in uses or not versions:
            continue
        folder = names.update_object(versions[max(versions)], "").rpartition("/")[0] + "/"
        bases = {path.rpartition("/")[2].partition(".")[0] for path in sizes if path.startswith(folder)} - gone
        found += [
            Stranded(name, version, devices, why)
            for version, devices, why in policy.stranded(versions, going.get(name, ()), uses[name], bases)
        ]
    return found
