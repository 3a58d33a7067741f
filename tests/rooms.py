"""The rooms of each deployable and the arrows between them, as a table that a person can read. Held by test_imports.py.

A room is a sub-package; what stands at a package's top and is named here is a room of its own, and the rest of the top
is `front`: command lines and those who put everything together. An arrow is an import, wherever in a file it stands.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEPLOYABLES = ("protocol", "server", "daemon", "inference")
FRONT = "front"
MOST_MODULES = 18
"""So many modules a room has at the most; about a dozen is comfortable."""

ROOMS: Mapping[str, Mapping[str, str]] = {
    "protocol": {
        "front": "codecs containers ground native plain policy",
        "requirements": "ground",
        "mqtt": "front ground",
        "access": "ground",
        "blocks": "codecs ground",
        "references": "containers front ground",
        "tree_files": "codecs containers ground trees",
        "trees": "codecs ground",
        "codecs": "ground native",
        "native": "ground",
        "containers": "ground",
        "plain": "ground",
        "policy": "ground",
        "ground": "",
    },
    "server": {
        "front": "cli",
        "cli": "broker dashboard environment hub iothub library media origin publish push retention rollout rounding "
        "signin sources store tracing triggers trust",
        "dashboard": "library rollout signin",
        "retention": "publish rollout store trust",
        "rollout": "iothub publish push query store trust",
        "media": "iothub publish store trust",
        "library": "engine provenance publish retention scratch sources store trust",
        "triggers": "publish scratch signin sources store trust",
        "sources": "scratch store",
        "push": "iothub store trust",
        "rounding": "encode publish tensors",
        "environment": "",
        "publish": "blocks cache encode engine examination low_rank plain provenance refine requirements scratch store "
        "tensors trust",
        "engine": "",
        "requirements": "",
        "examination": "",
        "provenance": "scratch",
        "refine": "encode scratch tensors",
        "plain": "encode scratch",
        "cache": "encode scratch store",
        "blocks": "encode scratch tensors",
        "trust": "store",
        "origin": "store",
        "hub": "iothub query store",
        "store": "encode scratch",
        "encode": "low_rank scratch tensors",
        "low_rank": "scratch tensors",
        "tensors": "",
        "scratch": "",
        "broker": "iothub query",
        "query": "iothub",
        "iothub": "",
        "signin": "",
        "tracing": "",
    },
    "daemon": {
        "front": "activate build capabilities config confinement consumers control disk doctor local reconcile site "
        "timing transfer workers",
        "site": "config disk network reconcile transfer trust",
        "doctor": "config confinement consumers disk local network transfer trust",
        "consumers": "activate config confinement disk",
        "local": "activate disk reconcile timing",
        "control": "config disk reconcile timing transfer",
        "reconcile": "activate capabilities config disk network timing transfer workers",
        "activate": "disk timing",
        "capabilities": "disk",
        "workers": "build confinement disk transfer trust",
        "build": "disk transfer trust",
        "network": "timing transfer",
        "transfer": "disk timing trust",
        "trust": "confinement disk",
        "confinement": "",
        "disk": "",
        "timing": "",
        "config": "",
    },
    "inference": {
        "front": "confinement edge errors follow handle http model processes runtimes",
        "edge": "errors http model runtimes",
        "http": "errors handle model runtimes",
        "handle": "errors follow model processes runtimes",
        "follow": "errors model runtimes",
        "model": "errors runtimes",
        "processes": "confinement errors runtimes",
        "runtimes": "errors",
        "confinement": "",
        "errors": "",
    },
}
"""By deployable, from the top down: a room, and the rooms that it imports."""

_AT_THE_TOP: Mapping[str, Mapping[str, str]] = {
    "protocol": {
        "canonical": "ground",
        "caps": "ground",
        "digests": "ground",
        "errors": "ground",
        "names": "ground",
        "wire": "ground",
    },
    "server": {"push": "push"},
    "daemon": {},
    "inference": {"errors": "errors"},
}
"""Modules at a package's top that are no front: the room that each stands for."""


def package(deployable: str) -> Path:
    """The folder that holds a deployable's modules."""
    return ROOT / deployable / f"modelsync_{deployable}"


def modules(deployable: str) -> dict[str, Path]:
    """Dotted names, without the package's own, of all its modules but `__init__`."""
    base = package(deployable)
    return {
        ".".join(path.relative_to(base).with_suffix("").parts): path
        for path in sorted(base.rglob("*.py"))
        if path.name != "__init__.py"
    }


def room_of(deployable: str, module: str) -> str:
    """The room in which a module stands."""
    if module.endswith("__main__"):  # a program's start, wherever Python wants it
        return FRONT
    first, _, rest = module.partition(".")
    return first if rest else _AT_THE_TOP[deployable].get(first, FRONT)


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names of all modules that a file imports, inside functions and under TYPE_CHECKING too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_arrows(deployable: str) -> dict[str, set[str]]:
    """For each module those of the same deployable that it imports; an `__init__` stands for its room's modules."""
    known, prefix = modules(deployable), f"modelsync_{deployable}."
    arrows: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for imported in imports(path):
            target = imported.removeprefix(prefix)
            if imported.startswith(prefix) and target in known and target != name:
                arrows[name].add(target)
    return arrows


def room_arrows(deployable: str) -> dict[str, set[str]]:
    """For each room the rooms that its modules import, packages' `__init__` files included."""
    known, prefix = modules(deployable), f"modelsync_{deployable}."
    base = package(deployable)
    arrows: dict[str, set[str]] = {}
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        if parts == ("__init__",):
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        room = room_of(deployable, name if name in known else f"{name}.x")
        found = arrows.setdefault(room, set())
        for imported in imports(path):
            target = imported.removeprefix(prefix)
            if imported.startswith(prefix) and (target in known or (base / target.replace(".", "/")).is_dir()):
                other = room_of(deployable, target if target in known else f"{target}.x")
                if other != room:
                    found.add(other)
    return arrows


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """A circle of arrows, its first name again at the end; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            found = visit(other, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    for name in sorted(arrows):
        found = visit(name, [])
        if found:
            return found
    return []
