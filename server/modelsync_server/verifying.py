"""Checks a whole store, and prices a way through it by version numbers. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_protocol.plan import Plan
from modelsync_server import pricing
from modelsync_server.library import check_update, materialised, published_sizes, read_manifest
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.trust import ModelVersions, read_catalogue


@dataclass(frozen=True, slots=True)
class Report:
    """How many versions and updates were checked, and one sentence for each that is damaged or missing."""

    versions: int
    updates: int
    problems: tuple[str, ...]


async def verify(store: Store) -> Report:
    """Check metadata, then decode every signed version and apply every update between signed versions."""
    catalogue = await read_catalogue(store)
    versions = updates = 0
    problems: list[str] = []
    for name, model in sorted(catalogue.models.items()):
        for version, digest in sorted(model.versions.items()):
            versions += 1
            try:
                async with materialised(store, digest) as target:
                    for base in sorted(await published_sizes(store, digest)):
                        updates += 1
                        try:
                            async with materialised(store, base) as source:
                                await check_update(store, source, target.manifest)
                        except (FormatError, ObjectNotFound) as error:
                            problems.append(f"{name} version {version}: the update from {base[:12]}…: {error}")
            except (FormatError, ObjectNotFound) as error:
                problems.append(f"{name} version {version}: {error}")
    return Report(versions, updates, tuple(problems))


async def price_of(store: Store, name: str, base: int | None, to: int) -> Plan:
    """The plan from version `base` (None: nothing held) of a model to version `to`; UsageError for unknown ones."""
    model = (await read_catalogue(store)).model(name)
    target = _digest(model, name, to)
    held = None
    if base is not None:
        held, _, _ = await read_manifest(store, _digest(model, name, base))
    return await pricing.price(store, target, held)


def _digest(model: ModelVersions, name: str, version: int) -> str:
    if version in model.withdrawn:
        raise RefusedError(f"version {version} of {name!r} was withdrawn; devices refuse it.")
    if version not in model.versions:
        raise UsageError(f"{name!r} has no version {version}; `modelsync list` shows what there is.")
    return model.versions[version]
