"""`modelsync publish|list|price|verify` as a user sees them: JSON keys, exit codes, one sentence, never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.modelsync_command import Run, refused, runner


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in this process; keys are in `tmp_path`/keys."""
    monkeypatch.setenv("MODELSYNC_KEYS", str(tmp_path / "keys"))
    return runner(monkeypatch, capsys)


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "store"
    assert run("init", path).code == 0
    return path


def objects(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_publish_prints_the_keys_of_the_contract(run: Run, store: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"one " * 200)
    first = run("publish", store, "m", model, "--json").json
    contract = ["name", "version", "manifest", "size", "files", "chunks", "install_bytes", "updates"]
    assert list(first) == [*contract, "advice"]
    assert (first["name"], first["version"], first["size"], first["files"], first["chunks"]) == ("m", 1, 800, 1, 1)
    assert first["updates"] == []
    assert (store / "manifests" / first["manifest"]).is_file()
    model.write_bytes(b"one " * 200 + b"two")
    second = run("publish", store, "m", model, "--json").json
    (update,) = second["updates"]
    assert list(update) == ["from", "bytes", "requests"]
    assert (update["from"], update["requests"]) == (1, 1)
    price = run("price", store, "m", "--from", 1, "--to", 2, "--json").json
    assert price == {"kind": "update", "bytes": update["bytes"], "requests": 1}
    install = run("price", store, "m", "--to", 2, "--json").json
    assert install == {"kind": "pack", "bytes": second["install_bytes"], "requests": 2}
    listed = run("list", store, "--json").json
    assert [v["version"] for v in listed["models"][0]["versions"]] == [1, 2]
    assert run("verify", store, "--json").json == {"ok": True, "versions": 2, "updates": 1, "problems": []}
    assert run("publish", store, "m", model, "--json").json == second
    assert "nothing to publish" in run("publish", store, "m", model).out
    model.write_bytes(b"three")
    third = run("publish", store, "m", model, "--version", 9, "--bases", "1,2", "--json").json
    assert (third["version"], first.keys()) == (9, third.keys())


@pytest.mark.parametrize("name", ["", "M", "a b", "-", "_a", "a/b", "../a", "a" * 64, "ä", "a.b"])
def test_odd_model_names_are_refused(run: Run, store: Path, tmp_path: Path, name: str) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"x")
    refused(run("publish", store, "--", name, model), 2, "is not a model name")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 108 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


BAD_ENTRIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (lambda tree: make_fifo(tree / "pipe"), "device, socket or pipe"),
    "socket": (lambda tree: make_socket(tree / "sock"), "device, socket or pipe"),
    "absolute link": (lambda tree: (tree / "link").symlink_to("/etc/passwd"), "only targets inside"),
    "link out": (lambda tree: (tree / "link").symlink_to("../outside"), "leaves the artifact"),
    "link out from below": (lambda tree: link_below(tree), "leaves the artifact"),
    "line feed": (lambda tree: (tree / "a\nb").write_text("x"), "rename the file"),
    "backslash": (lambda tree: (tree / "a\\b").write_text("x"), "rename the file"),
    "no unicode": (lambda tree: Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).write_text("x"), "rename the file"),
    "device name": (lambda tree: (tree / "NUL.txt").write_text("x"), "device names"),
    "too deep": (lambda tree: deep(tree), "is not a usable file path"),
}


def link_below(tree: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "link").symlink_to("../../x")


def deep(tree: Path) -> None:
    folder = tree.joinpath(*["x" * 200] * 6)
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")


@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_trees_that_no_device_could_hold_are_refused(run: Run, store: Path, tmp_path: Path, what: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "model.bin").write_bytes(b"good" * 2000)
    make, sentence = BAD_ENTRIES[what]
    make(tree)
    before = objects(store)
    refused(run("publish", store, "m", tree), 2, sentence)
    assert objects(store) == before


def test_what_is_no_artifact_is_refused(run: Run, store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_fifo(tmp_path / "fifo")
    refused(run("publish", store, "m", tmp_path / "nothing"), 2, "does not exist")
    refused(run("publish", store, "m", tmp_path / "empty"), 2, "empty directory")
    refused(run("publish", store, "m", tmp_path / "fifo"), 2, "neither a regular file nor a directory")
    refused(run("publish", store, "m", "/dev/null"), 2, "neither a regular file nor a directory")
    refused(run("publish", store, "m", tmp_path / "fifo" / "x"), 2, "does not exist")


def test_an_unreadable_file_is_refused(run: Run, store: Path, tmp_path: Path) -> None:
    # A regular file that opens and then fails to read, for root too.
    refused(run("publish", store, "m", "/proc/self/mem"), 2, "can't be read")
    if os.geteuid() != 0:  # nothing is unreadable for root
        model = tmp_path / "model.bin"
        model.write_bytes(b"x")
        model.chmod(0)
        refused(run("publish", store, "m", model), 2, "check its permissions")


def test_an_artifact_that_changes_while_it_is_read_is_refused(run: Run, store: Path, tmp_path: Path) -> None:
    """A writer appends without pause; the file is large enough that some of it falls into the reading."""
    model = tmp_path / "model.bin"
    model.write_bytes(b"\1" * (48 * 1024 * 1024))  # holes would take no time to read
    writing, finished = threading.Event(), threading.Event()

    def write() -> None:
        with model.open("ab", buffering=0) as file:
            while not finished.is_set():
                file.write(b"x")
                writing.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert writing.wait(10)
        before = objects(store)
        outcome = run("publish", store, "m", model)
    finally:
        finished.set()
        writer.join()
    refused(outcome, 2, "changed while it was read")
    assert objects(store) == before


def test_bad_options_are_refused(run: Run, store: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"x")
    refused(run("publish", store, "m", model, "--version", 0), 2, "is not a version")
    refused(run("publish", store, "m", model, "--bases", "1,x"), 2, "--bases")
    refused(run("publish", store, "m", model, "--bases", "4"), 2, "version 4 is not published")
    refused(run("publish", store, "m", model, "--probe", tmp_path / "none.json"), 2, "does not exist")
    refused(run("price", store, "m", "--to", 1), 2, "no model 'm'")
    assert run("publish", store, "m", model, "--version", "one").code == 2
    assert run("publish", store).code == 2


def test_a_place_that_is_no_store_and_a_store_without_its_keys_are_refused(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"x")
    for command in (
        ("publish", tmp_path, "m", model),
        ("list", tmp_path),
        ("verify", tmp_path),
        ("price", tmp_path, "m", "--to", "1"),
        ("publish", tmp_path / "missing", "m", model),
    ):
        refused(run(*command), 2, "modelsync init")
    monkeypatch.setenv("MODELSYNC_KEYS", str(tmp_path / "nowhere"))
    before = objects(store)
    refused(run("publish", store, "m", model), 3)
    assert objects(store) == before


def test_verify_says_what_is_damaged_and_exits_with_3(run: Run, store: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"some bytes" * 99)
    assert run("publish", store, "m", model).code == 0
    (pack,) = (store / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 0x10
    pack.write_bytes(data)
    told = run("verify", store, "--json")
    assert told.code == 3
    found = json.loads(told.out)
    assert not found["ok"] and any(pack.name in problem for problem in found["problems"])
    spoken = run("verify", store)
    assert spoken.code == 3 and pack.name in spoken.err


PUBLISHER = """
import asyncio, sys
from pathlib import Path
from modelsync_server.publish.publisher import publish
from modelsync_server.store import open_store
store, keys, folder, who = sys.argv[1:]
for number in range(4):
    path = Path(folder) / "model.bin"
    path.write_bytes(f"{who} {number}".encode() * 300)
    for name in ("shared", "only-" + who):
        print(asyncio.run(publish(open_store(store), keys, name, path)).version)
"""


def test_two_publishers_at_once_lose_nothing(run: Run, store: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"first")
    assert run("publish", store, "shared", model).code == 0
    processes = []
    for who in ("a", "b"):
        folder = tmp_path / who
        folder.mkdir()
        command = [sys.executable, "-c", PUBLISHER, str(store), str(tmp_path / "keys"), str(folder), who]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        told.append([int(line) for line in out.split()])
    shared = [number for numbers in told for number in numbers[::2]]
    assert sorted(shared) == list(range(2, 10))
    assert [numbers[1::2] for numbers in told] == [[1, 2, 3, 4]] * 2
    listed = {m["name"]: [v["version"] for v in m["versions"]] for m in run("list", store, "--json").json["models"]}
    assert listed == {"shared": list(range(1, 10)), "only-a": [1, 2, 3, 4], "only-b": [1, 2, 3, 4]}
    assert run("verify", store, "--json").json["ok"]


def test_the_command_itself_ends_without_a_traceback(store: Path, tmp_path: Path) -> None:
    """The installed entry point, as a shell calls it."""
    command = [
        sys.executable,
        "-c",
        "from modelsync_server.cli import main; main()",
        "publish",
        str(store),
        "m",
        str(tmp_path / "no"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("modelsync: ")
