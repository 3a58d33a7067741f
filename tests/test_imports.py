"""Who may import whom, read from the source: stages meet in protocol, without I/O; rooms as in tests/rooms.py."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests import rooms
from tests.rooms import DEPLOYABLES, MOST_MODULES, ROOMS, ROOT, imports

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
        if path.parent.name == "native":
            continue  # finds the compiled core on the disk, loads it, and nothing else
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


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_rooms_import_each_other_as_the_table_says(deployable: str) -> None:
    drawn = {room: set(arrows.split()) for room, arrows in ROOMS[deployable].items()}
    found = rooms.room_arrows(deployable)
    assert found.keys() <= drawn.keys(), "a room that tests/rooms.py does not know"
    for room, arrows in drawn.items():
        assert found[room] == arrows, f"{deployable}: {room} imports other rooms than tests/rooms.py says"


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_arrows_never_close_a_circle(deployable: str) -> None:
    assert not rooms.circle(rooms.room_arrows(deployable))
    assert not rooms.circle(rooms.module_arrows(deployable))


def test_a_circle_would_be_seen() -> None:
    assert rooms.circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert rooms.circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_no_room_is_crowded_and_each_says_what_it_is_for(deployable: str) -> None:
    for room, count in Counter(rooms.room_of(deployable, name) for name in rooms.modules(deployable)).items():
        assert count <= MOST_MODULES, f"{deployable}: {room} has {count} modules"
        folder = rooms.package(deployable) / room
        if folder.is_dir():
            text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
            assert text, f"{folder} does not say what it is for"


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_no_file_is_longer_than_400_lines(deployable: str) -> None:
    for path in sources(deployable):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_the_page_of_rooms_knows_every_room(deployable: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [room for room in ROOMS[deployable] if (rooms.package(deployable) / room).is_dir()]
    assert [room for room in folders if f"`{room}/`" not in page] == []
