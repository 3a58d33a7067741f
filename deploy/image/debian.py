"""Reads dpkg's database in a root that is not this system's: packages, what they depend on, which files they own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package. `depends` has for each dependency the alternatives' names; `stanza` is its whole entry."""

    name: str
    version: str
    architecture: str
    depends: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]
    stanza: str


def installed(root: Path) -> dict[str, Package]:
    """Every installed package of `root`, by name."""
    packages = {}
    for stanza in (root / "var/lib/dpkg/status").read_text(encoding="utf-8").strip().split("\n\n"):
        fields = _fields(stanza)
        if fields.get("Status", "").endswith(" installed"):
            depends = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}"
            packages[fields["Package"]] = Package(
                fields["Package"],
                fields["Version"],
                fields["Architecture"],
                tuple(tuple(map(_name, item.split("|"))) for item in depends.split(",") if item.strip()),
                tuple(map(_name, filter(str.strip, fields.get("Provides", "").split(",")))),
                stanza,
            )
    return packages


def _fields(stanza: str) -> dict[str, str]:
    lines = [line for line in stanza.splitlines() if not line.startswith((" ", "\t"))]
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _name(relation: str) -> str:
    return relation.strip().partition(" ")[0].partition(":")[0]


def closure(packages: Mapping[str, Package], keep: Iterable[str], without: Collection[str]) -> set[str]:
    """Names of `keep` and of what they depend on, not going through `without`. KeyError: a package is not there."""
    providers = {virtual: package.name for package in packages.values() for virtual in package.provides}
    wanted: set[str] = set()
    waiting = list(keep)
    while waiting:
        name = waiting.pop()
        if name in wanted:
            continue
        wanted.add(name)
        for alternatives in packages[name].depends:
            found = [providers.get(item, item) for item in alternatives if item in packages or item in providers]
            # A real package goes before one that merely provides the name.
            real = [item for item in alternatives if item in packages]
            if not any(item in wanted or item in without for item in (*alternatives, *found)):
                waiting.append((real or found)[0])
    return wanted


def files(root: Path, package: Package) -> list[str]:
    """Paths of the package, relative to the root; folders among them."""
    info = root / "var/lib/dpkg/info"
    name = f"{package.name}:{package.architecture}.list"
    listed = info / name if (info / name).exists() else info / f"{package.name}.list"
    return [line.lstrip("/") for line in listed.read_text(encoding="utf-8").splitlines() if line.strip("/.")]
