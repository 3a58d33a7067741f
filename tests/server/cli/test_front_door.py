"""The front door for people: what `list`, `show`, `diff`, `doctor` and `publish -` print, and what errors suggest."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer

from modelsync_server import cli, create_store
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


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to read: three versions of an array, the second withdrawn, the others with metadata; keys beside it."""
    folder = tmp_path_factory.mktemp("filled")
    store = create_store(folder / "store", keys=folder / "keys").store
    for version in (1, 2, 3):
        np.save(folder / "w.npy", np.linspace(0, 1, 5_000, dtype="<f4") * (1 + version / 1000))
        said = {"metrics": {"auc": 0.9 + version / 100}, "author": "Ada", "commit": f"c{version}"}
        store.publish("net", folder / "w.npy", metadata=said if version != 2 else None)
    store.withdraw("net", 2)
    return folder / "store"


def test_list_is_a_table_with_dates_sizes_costs_and_metadata(run: Run, filled: Path) -> None:
    lines = run("list", filled).out.splitlines()
    heading = lines[0].split()
    assert heading == ["model", "version", "published", "bytes", "install", "update", "digest", "metadata"]
    first, second, third = lines[1:]
    assert first.startswith("net ") and "20,128" in first and first.endswith("auc=0.91")
    assert "withdrawn" in second and third.endswith("auc=0.93")
    (version,) = [v for v in run("list", filled, "--json").json["models"][0]["versions"] if v["version"] == 3]
    assert f"{version['updates'][0]['bytes']:,}" in third and version["manifest"][:12] in third
    assert "\x1b" not in run("list", filled).out


def test_json_of_list_only_gained_keys(run: Run, filled: Path) -> None:
    (model,) = run("list", filled, "--json").json["models"]
    assert list(model) == ["name", "versions", "withdrawn"] and model["withdrawn"] == [2]
    keys = ["version", "manifest", "published", "published_signed", "size", "files", "install_bytes", "updates"]
    assert [list(version) for version in model["versions"]] == [[*keys, "metadata", "requires"]] * 2
    assert model["versions"][0]["metadata"] == {"author": "Ada", "commit": "c1", "metrics": {"auc": 0.91}}


def test_publish_tells_its_metadata_and_others_keep_the_old_keys(run: Run, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"x")
    assert "metadata" not in run("publish", store, "m", path, "--json").json
    (tmp_path / "said.json").write_text('{"metrics": {"auc": 0.5, "f1": 1}, "run": "7", "lr": 1e-3}')
    words = ["--metadata", tmp_path / "said.json", "--meta", "metrics.auc=0.75", "--meta", "run=8", "--meta", "ok=true"]
    said = run("publish", store, "m", path, *words, "--json").json["metadata"]
    assert said == {"metrics": {"auc": 0.75, "f1": 1}, "run": "8", "lr": 0.001, "ok": True}
    assert run("show", store, "m", "--json").json["metadata"] == said


def test_publish_takes_author_and_commit_from_git_and_says_that_the_tree_is_dirty(
    run: Run, store: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    path = repository / "m.bin"
    path.write_bytes(b"x")
    refused(run("publish", store, "m", path, "--git"), 2, "no git repository", "--commit")
    git = ["git", "-C", str(repository), "-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    said = {"author": "Ada <ada@example.com>", "commit": head}
    assert run("publish", store, "m", path, "--git", "--json").json["metadata"] == said
    path.write_bytes(b"y")
    found = run("publish", store, "m", path, "--git", "--commit", "mine", "--json").json["metadata"]
    assert found == {**said, "commit": "mine", "dirty": True}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--meta", "auc"], "KEY=VALUE"),
        (["--meta", "auc=NaN"], "'auc' is nan"),
        (["--metadata", "none.json"], "can't be read"),
        (["--metadata", "list.json"], "holds no JSON object"),
        (["--metadata", "bad.json"], "not valid JSON"),
        (["--meta", "metrics=5"], "'metrics'"),
        (["--meta", "decimal=5"], "give a JSON object"),
    ],
)
def test_metadata_that_cannot_be_signed_is_refused_before_anything_is_written(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.json").write_text("[1]")
    Path("bad.json").write_text("{")
    Path("m.bin").write_bytes(b"x")
    before = sorted(store.rglob("*"))
    refused(run("publish", store, "m", "m.bin", *words), 2, sentence)
    assert sorted(store.rglob("*")) == before


def test_a_slip_of_a_known_key_is_noted(run: Run, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"x")
    done = run("publish", store, "m", path, "--meta", "license=MIT", "--meta", "athor=Ada")
    assert done.code == 0 and "'licence' is the usual one" in done.err and "'author' is the usual one" in done.err


def test_standard_input_is_published_under_a_name(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"some bytes" * 1000
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    expected = run("publish", store, "file", path, "--json").json
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    refused(run("publish", store, "stream", "-"), 2, "--file-name")
    found = run("publish", store, "stream", "-", "--file-name", "model.bin", "--json").json
    assert found["manifest"] == expected["manifest"]
    refused(run("publish", store, "file", path, "--file-name", "model.bin"), 2, "a path has a name of its own")


def test_show_says_all_of_a_version(run: Run, filled: Path) -> None:
    text = run("show", filled, "net", 3).out
    found = run("show", filled, "net", "--json").json
    assert list(found)[:3] == ["name", "version", "manifest"] and found["version"] == 3 and found["newest"]
    for word in (
        found["manifest"],
        found["entries"][0]["sha256"],
        "author: Ada",
        '"auc": 0.93',
        "version 1",
        "timestamp",
    ):
        assert word in text
    assert found["signatures"][0]["keyids"][0][:16] in text
    refused(run("show", filled, "net", 2), 3, "withdrawn")
    refused(run("show", filled, "ent"), 2, "did you mean 'net'")


def test_diff_says_what_changed_and_what_that_costs(run: Run, filled: Path) -> None:
    found = run("diff", filled, "net", 1, 3, "--json").json
    (tensor,) = found["tensors"]
    assert (found["from"], found["to"], found["kind"], tensor["dtype"]) == (1, 3, "update", "f32")
    assert found["bytes"] == found["header_bytes"] + sum(file["update_bytes"] for file in found["files"])
    assert run("price", filled, "net", "--from", 1, "--to", 3, "--json").json["bytes"] == found["bytes"]
    text = run("diff", filled, "net", 1, 3).out
    assert f"{found['bytes']:,} bytes" in text and tensor["encodings"][0] in text and "rel. RMS" in text
    assert "publish with --bases 3" in run("diff", filled, "net", 3, 1).out
    assert "1 file(s) and 1 tensor(s) are the same." in run("diff", filled, "net", 3, 3).out


def test_what_a_store_says_cannot_steer_the_terminal(run: Run, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"x")
    hostile = "\x1b]0;owned\x07[red]text[/red]\u202e"
    assert run("publish", store, "m", path, "--author", hostile, "--meta", f"{hostile}=1").code == 0
    for command in (("show", store, "m"), ("list", store)):
        out = run(*command).out
        assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out and "[red]text[/red]" in out


def test_a_terminal_gets_a_table_and_a_pipe_gets_plain_text(filled: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from modelsync_server.cli import main; main()", "list", str(filled)]
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in piped and piped.isascii()
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdout=side, stderr=side, env=environment)
    os.close(side)
    shown = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:  # the other side was closed
            break
        if not block:
            break
        shown += block
    os.close(main)
    assert process.wait(30) == 0 and b"\x1b[" in shown and "─".encode() in shown


def test_doctor_prints_each_finding_with_its_mend_and_ends_with_the_first_problems_code(
    run: Run, filled: Path, tmp_path: Path
) -> None:
    keys = ("--keys", filled.parent / "keys")
    fine = run("doctor", filled, *keys)
    assert fine.code == 0 and "problem" not in fine.out and "mend: mv " in fine.out
    document = run("doctor", filled, *keys, "--json").json
    assert document["ok"] and {"check", "level", "text", "mend"} == set(document["findings"][0])
    gone = run("doctor", filled, "--keys", tmp_path / "nowhere")
    assert gone.code == 3 and "problem  keys" in gone.out and "modelsync doctor" in gone.out
    nothing = run("doctor", tmp_path / "no-store", "--json")
    assert nothing.code == 2 and json.loads(nothing.out)["ok"] is False and "modelsync init" in nothing.out


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["publsh"], "publish"),
        (["keys", "rotat"], "rotate"),
        (["publish", "s", "n", "p", "--metdata", "x"], "--metadata"),
        (["list", "--jsn", "s"], "--json"),
    ],
)
def test_a_slip_in_a_command_or_option_names_what_was_meant(run: Run, words: list[str], meant: str) -> None:
    done = run(*words)
    assert done.code == 2 and meant in done.err


def test_names_of_models_complete_and_errors_while_completing_are_silent(filled: Path) -> None:
    def complete(*words: str) -> str:
        environment = {
            **os.environ,
            "_MODELSYNC_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["modelsync", *words]),
            "COMP_CWORD": str(len(words)),
        }
        command = [Path(sys.executable).with_name("modelsync")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout

    assert complete("show", str(filled), "n").split() == ["net"]
    assert complete("show", str(filled / "none"), "n").strip() == ""
    assert "doctor" in complete("do").split()


def test_every_command_is_found_where_the_table_says_and_none_is_missing() -> None:
    for module in {*cli.MODULES, *cli.GROUPS.values()}:
        holder = typer.Typer()
        import_module(f"modelsync_server.cli.{module}").register(holder)
        groups = [name for name, where in cli.GROUPS.items() if where == module]
        assert [*typer.main.get_group(holder).commands] == [*cli.MODULES.get(module, ()), *groups]
    files = {path.stem for path in Path(str(cli.__file__)).parent.glob("*_command*.py")}
    assert files == {*cli.MODULES, *cli.GROUPS.values()}, "a file of commands that nobody can call"


def test_a_command_loads_nothing_that_only_others_need() -> None:
    """Nor do completion and `--version`, which would take a second for each."""
    asked = (
        "from modelsync_server.cli import main; import sys; sys.argv = ['modelsync', *sys.argv[1:]]\n"
        "try: main()\nfinally: print(sorted({'numpy', 'aiohttp', 'tuf', 'cryptography'} & {*sys.modules}))"
    )
    for words in (["--version"], ["serve", "--help"], ["twin", "--help"], ["retain", "/nowhere", "--keep", "none"]):
        done = subprocess.run([sys.executable, "-c", asked, *words], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", (words, done)


def test_an_age_that_is_none_is_refused_and_nothing_is_collected(run: Run, store: Path) -> None:
    left = store / "packs" / ("e" * 64)
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"left")
    for hours in ("inf", "1e300", "-1", "nan"):
        assert run("gc", store, "--older-than", hours).code == 2
    assert left.exists()
    assert run("gc", store, "--older-than", "0").code == 0
    assert not left.exists()
