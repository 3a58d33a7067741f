"""Which versions go and which stay, from what is signed, what devices say, and sizes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Use:
    """What twins say of one model: devices by the manifest digest that they report, and by the version desired of
    them (the newest is no number and needs none)."""

    reported: Mapping[str, int] = field(default_factory=dict)
    desired: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """`keep`: so many of the newest versions of each model stay; None: all. `max_bytes`: beyond that the oldest go even
    if `keep` would have them stay. What is desired or reported stays in any case."""

    keep: int | None = None
    max_bytes: int | None = None


def held(versions: Mapping[int, str], use: Use) -> set[int]:
    """The versions of a model that never go: the newest, and those that twins name."""
    named = {version for version, digest in versions.items() if digest in use.reported}
    return ({max(versions)} if versions else set()) | named | (set(use.desired) & set(versions))


def choose(
    models: Mapping[str, Mapping[int, str]],
    uses: Mapping[str, Use],
    policy: Policy,
    needs: Mapping[str, Mapping[str, int]],
    fixed: int = 0,
) -> dict[str, list[int]]:
    """Versions to prune by model, oldest first. `models`: live versions to manifest digests; `needs`: by digest the
    objects without which a version is not whole, with their sizes in bytes; `fixed`: bytes that stay in any case."""
    going: dict[str, list[int]] = {}
    left: dict[str, list[int]] = {}
    for name, versions in models.items():
        safe = held(versions, uses.get(name, Use()))
        newest = sorted(versions, reverse=True)
        stay = set(newest if policy.keep is None else newest[: policy.keep]) | safe
        going[name] = sorted(set(versions) - stay)
        left[name] = sorted(stay - safe)
    if policy.max_bytes is not None:
        _make_room(models, going, left, policy.max_bytes - fixed, needs)
    return {name: sorted(found) for name, found in going.items() if found}


def _make_room(
    models: Mapping[str, Mapping[int, str]],
    going: dict[str, list[int]],
    left: dict[str, list[int]],
    room: int,
    needs: Mapping[str, Mapping[str, int]],
) -> None:
    """Let the oldest go, of the model that has most versions left, until what stays fits."""
    staying = [d for name, versions in models.items() for v, d in versions.items() if v not in going[name]]
    users: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for digest in staying:
        for path, size in needs.get(digest, {}).items():
            users[path] = users.get(path, 0) + 1
            sizes[path] = size
    total = sum(sizes.values())
    while total > room and any(left.values()):
        name = max(left, key=lambda each: (len(left[each]), each))
        version = left[name].pop(0)
        going[name].append(version)
        for path in needs.get(models[name][version], {}):
            users[path] -= 1
            if not users[path]:
                total -= sizes[path]


def stranded(
    versions: Mapping[int, str], going: Collection[int], use: Use, updates: Collection[str]
) -> Sequence[tuple[int | None, int, str]]:
    """Devices that the pruning leaves without something: (version or None, devices, what they lose). `updates`: digests
    from which an update to the newest version is left."""
    numbers = {digest: version for version, digest in versions.items()}
    found: list[tuple[int | None, int, str]] = []
    for digest, devices in sorted(use.reported.items()):
        version = numbers.get(digest)
        newest = versions[max(versions)] if versions else ""
        if digest != newest and digest not in updates:
            found.append((version, devices, "no update leads from what they run: they fetch the newest as a whole"))
    for version, devices in sorted(use.desired.items()):
        if version in going or version not in versions:
            found.append((version, devices, "the version that is desired of them is not in the store"))
    return found
