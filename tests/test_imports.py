"""Who may import whom (DESIGN §2), read from the source: stages meet in protocol, and protocol does no I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPLOYABLES = ("protocol", "server", "daemon", "inference")
OURS = {name: f"modelsync_{name}" for name in (*DEPLOYABLES, "bench")}
OUTSIDE_WORLD = {
    "asyncio",
    "ctypes",
    "fcntl",
    "http",
    "io",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
}
"""What a pure package has no use for: files, sockets, clocks, chance, environment, processes."""


def sources(deployable: str) -> list[Path]:
    return sorted((ROOT / deployable / OURS[deployable]).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_a_deployable_imports_only_the_protocol_and_itself(deployable: str) -> None:
    files = sources(deployable)
    assert files, f"no sources of {deployable} were found"
    allowed = {OURS[deployable], OURS["protocol"]}
    for path in files:
        for name in imports(path):
            top = name.partition(".")[0]
            assert not top.startswith("modelsync") or top in allowed, f"{path} imports {name}"
            assert top not in {"tests", "examples"}, f"{path} imports {name}"


def test_the_protocol_does_no_input_or_output() -> None:
    for path in sources("protocol"):
        for name in imports(path):
            parts = name.split(".")
            prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
            assert not prefixes & OUTSIDE_WORLD, f"{path} imports {name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "print", "input", "exec", "eval"}, f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"today", "utcnow"}, f"{path}:{node.lineno} reads a clock"
                assert not (node.attr == "now" and isinstance(node.value, ast.Name) and node.value.id == "datetime"), (
                    f"{path}:{node.lineno} reads a clock"
                )


def test_the_test_sees_a_forbidden_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from modelsync_server import store\n    import os.path\n")
    assert {"modelsync_server", "modelsync_server.store", "os.path"} == set(imports(bad))
