"""`mlflow:` and its watch: a real server's answers, recorded by record_mlflow.py and replayed, with faults.

test_mlflow_live.py (long) does the same against a running server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from modelsync_protocol.errors import (
    FormatError,
    LocalError,
    ModelsyncError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from modelsync_server.sources import fetching
from modelsync_server.store import open_store
from modelsync_server.triggers.mlflow_webhook import PATH, MlflowWebhook, signature
from modelsync_server.triggers.source_watch import SourceWatch
from tests.server.sources.record_mlflow import FILES, FOLDER, NEWER
from tests.support.modelsync_command import refused as refused_
from tests.support.modelsync_command import runner
from tests.support.shop import Shop
from tests.support.source_server import Asked, Reply, SourceServer
from tests.support.waiting import PATIENCE_SECONDS, until

ALIAS = "mlflow:models:/anomaly@champion"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SourceServer]:
    async with SourceServer().load(FOLDER / "mlflow-1.json") as found:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.url)
        yield found


def promote(server: SourceServer) -> None:
    """The alias moves from version 1 to version 2."""
    server.load(FOLDER / "mlflow-2.json")


async def files_of(text: str) -> dict[str, bytes]:
    async with fetching.fetched(fetching.parse(text)) as found:
        if found.path.is_file():
            return {found.path.name: found.path.read_bytes()}
        return {p.relative_to(found.path).as_posix(): p.read_bytes() for p in found.path.rglob("*") if p.is_file()}


async def refused(text: str, kind: type[ModelsyncError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        await files_of(text)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


async def test_an_alias_means_one_version(server: SourceServer) -> None:
    assert await files_of(ALIAS) == FILES
    assert await files_of(f"{ALIAS}/model.onnx") == {"model.onnx": FILES["model.onnx"]}
    assert await files_of(f"{ALIAS}/data") == {"labels.txt": b"a\nb\n"}
    resolved = await fetching.parse(f"{ALIAS}/data").resolve()
    assert (resolved.registry, resolved.revision) == (server.url, "models:/anomaly/1/data")
    assert len(resolved.more["run"]) == 32


async def test_versions_latest_and_runs(server: SourceServer) -> None:
    due = {"model.onnx": FILES["model.onnx"]}
    assert await files_of("mlflow:models:/anomaly/3") == due, "it refers to a run"
    resolved = await fetching.parse("mlflow:models:/anomaly/latest").resolve()
    assert resolved.revision == "models:/anomaly/3"
    run = resolved.more["run"]
    assert await files_of(f"mlflow:runs:/{run}/onnx") == due


async def test_an_alias_that_moves_in_mid_publish_changes_nothing(server: SourceServer) -> None:
    def move(asked: Asked, reply: Reply) -> None:
        if "get-download-uri" in asked.path:
            promote(server)

    server.fault = move
    assert await files_of(ALIAS) == FILES
    assert await files_of(ALIAS) == NEWER


async def test_what_mlflow_says_is_told(server: SourceServer) -> None:
    await refused("mlflow:models:/anomaly@nobody", UsageError, "alias nobody not found")
    await refused("mlflow:models:/other/1", UsageError, "not found")
    server.fault = lambda asked, reply: Reply(status=401)
    await refused(ALIAS, RefusedError, "MLFLOW_TRACKING_TOKEN")
    server.fault = lambda asked, reply: Reply(b"<html>")
    await refused(ALIAS, UnreachableError)
    server.fault = lambda asked, reply: Reply.document({"model_version": {"name": "x", "version": "1"}})
    await refused(ALIAS, UnreachableError)
    server.fault = lambda asked, reply: Reply.document(
        {"model_version": {"name": "anomaly", "version": "1", "status": "PENDING_REGISTRATION"}}
    )
    await refused(ALIAS, UnreachableError, "not ready")


async def test_credentials_are_mlflows_own(server: SourceServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".mlflow").mkdir()
    text = "[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = p%w\n"
    (home / ".mlflow" / "credentials").write_text(text)
    await files_of(ALIAS)
    assert {each.secret for each in server.asked} == {"Basic bWU6cCV3"}
    server.asked.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    await files_of(ALIAS)
    assert {each.secret for each in server.asked} == {"Bearer t0ken"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pass@127.0.0.1:5000")
    with pytest.raises(UsageError, match="holds a user") as caught:
        fetching.parse(ALIAS)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize("uri", ["/etc", "file:///etc", "file://host/etc"])
async def test_a_server_does_not_choose_files_of_the_publishers_machine(server: SourceServer, uri: str) -> None:
    server.fault = lambda asked, reply: Reply.document({"artifact_uri": uri}) if "download-uri" in asked.path else None
    await refused(ALIAS, RefusedError, "path of some machine")


async def test_artifacts_in_a_cloud_without_the_extra_name_it(server: SourceServer) -> None:
    there = {"artifact_uri": "s3://bucket/x"}
    server.fault = lambda asked, reply: Reply.document(there) if "download-uri" in asked.path else None
    await refused(ALIAS, UsageError, "modelsync-server[mlflow]")


async def test_a_registry_in_a_database_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///m.db")
    await refused(ALIAS, UsageError, "modelsync-server[mlflow]")


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "../../x", "is_dir": False, "file_size": 1},
        {"path": "..", "is_dir": True},
        {"path": "a/b", "is_dir": True},
        {"path": "/etc/x", "file_size": 1},
        {"path": "x", "file_size": "1"},
        {"path": "x", "file_size": 1 << 50},
    ],
)
async def test_listings_that_lead_out_or_are_too_large_are_refused(server: SourceServer, entry: object) -> None:
    def lie(asked: Asked, reply: Reply) -> Reply | None:
        if "artifacts?path" in asked.path:
            return Reply.document({"files": [entry]})
        return Reply(b"x") if "mlflow-artifacts" in asked.path else None

    server.fault = lie
    with pytest.raises((FormatError, UnreachableError, UsageError)):
        await files_of(ALIAS)


async def test_folders_without_end_are_left(server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelsync_protocol.caps.MAX_FILES", 40)
    many = Reply.document({"files": [{"path": f"d{number}", "is_dir": True} for number in range(50)]})
    empty = Reply.document({"files": []})

    def wide(asked: Asked, reply: Reply) -> Reply | None:
        if "artifacts?path" not in asked.path:
            return None
        return empty if "/model/" in asked.path else many

    server.fault = wide
    await refused(ALIAS, UsageError, "folders")


async def test_folders_within_folders_end_somewhere(server: SourceServer) -> None:
    deeper = Reply.document({"files": [{"path": "d", "is_dir": True}]})
    server.fault = lambda asked, reply: deeper if "artifacts?path" in asked.path else None
    await refused(ALIAS, FormatError, "deep")


async def test_a_file_that_is_replaced_while_the_line_is_broken_is_not_mixed(server: SourceServer) -> None:
    """MLflow has no digests: an ETag tells, and without one it begins again."""
    old, new = b"old" * 400, b"new" * 400
    for tags in (("a", "b"), ("", "")):
        script = [old, new]

        def replaced(asked: Asked, reply: Reply) -> Reply | None:
            if "artifacts?path" in asked.path:
                return Reply.document({"files": [{"path": "m", "file_size": 1200}]})
            if not asked.path.endswith("/m"):
                return None
            body = script.pop(0) if len(script) == 2 else new  # noqa: B023
            headers = {"ETag": f'"{tags[body is new]}"'} if tags[0] else {}  # noqa: B023
            return Reply(body, headers=headers, cut=300 if body is old else None)

        server.fault = replaced
        assert await files_of(ALIAS) == {"m": new}


async def test_an_artifact_that_breaks_off_comes_whole(server: SourceServer, pauses: list[float]) -> None:
    script = [
        Reply(FILES["model.onnx"], cut=200),
        Reply(status=429, headers={"Retry-After": "2"}),
        Reply(status=503),
    ]
    server.fault = lambda asked, reply: script.pop(0) if asked.path.endswith("model.onnx") and script else None
    assert await files_of(f"{ALIAS}") == FILES
    assert 2.0 in pauses


# What follows is about watching.


class World:
    """A shop, a watch of the alias, and what it told."""

    def __init__(self, shop: Shop, memory: Path) -> None:
        self.shop, self.memory = shop, memory
        self.told: list[int] = []
        self.complained: list[str] = []

    def watch(self, name: str = "anomaly") -> SourceWatch:
        return SourceWatch(
            fetching.parse(ALIAS),
            open_store(str(self.shop.path)),
            str(self.shop.keys),
            name,
            lambda made, resolved: self.told.append(made.version),
            self.complained.append,
            self.memory,
        )

    async def versions(self) -> list[int]:
        return sorted((await (await self.shop.repository()).catalogue()).model("anomaly").versions)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(await Shop.open(tmp_path), tmp_path / "state" / "memory.json")


async def test_each_move_of_the_alias_is_published_once(server: SourceServer, world: World) -> None:
    watch = world.watch()
    await watch.look()
    await watch.look()
    server.asked.clear()
    await world.watch().look()  # after a restart
    assert len(server.asked) == 1, "nothing changed: one cheap request"
    promote(server)
    await watch.look()
    await watch.look()
    assert world.told == [1, 2] and await world.versions() == [1, 2]
    server.load(FOLDER / "mlflow-1.json")  # somebody moves it back: the newest version is what it names
    await watch.look()
    assert world.told == [1, 2, 3]


async def test_a_withdrawn_version_does_not_come_back_though_the_memory_is_lost(
    server: SourceServer, world: World
) -> None:
    await world.watch().look()
    await (await world.shop.repository()).withdraw("anomaly", 1)
    await world.watch().look()
    world.memory.unlink()
    await world.watch().look()
    assert world.told == [1] and "withdrawn" in world.complained[0]
    promote(server)
    await world.watch().look()
    assert world.told == [1, 2]


async def test_without_its_memory_what_is_signed_is_believed(server: SourceServer, world: World) -> None:
    await world.watch().look()
    world.memory.unlink()
    server.asked.clear()
    await world.watch().look()
    assert world.told == [1] and len(server.asked) == 1
    world.memory.write_text("nonsense")
    with pytest.raises(LocalError, match="restore or remove"):
        await world.watch().look()


async def test_what_is_refused_is_told_once_and_tried_when_the_alias_moves(server: SourceServer, world: World) -> None:
    watch, stop, hint = world.watch(), asyncio.Event(), asyncio.Event()
    outside = Reply.document({"files": [{"path": "../x", "is_dir": False, "file_size": 1}]})

    def lists() -> int:
        return sum("artifacts?path" in each.path for each in server.asked)

    def asks() -> int:
        return sum("registered-models/alias" in each.path for each in server.asked)

    server.fault = lambda asked, reply: outside if "artifacts?path" in asked.path else None
    going = asyncio.ensure_future(watch.run(stop, hint, 0.02))
    await until(lambda: asks() > 5)
    assert lists() == 1 and len(world.complained) == 1, "it is not fetched again and again"
    server.fault = None
    promote(server)
    await until(lambda: bool(world.told))
    stop.set()
    await going
    assert world.told == [1]


async def test_a_registry_that_is_away_is_told_once_and_waited_for(server: SourceServer, world: World) -> None:
    watch, stop, hint = world.watch(), asyncio.Event(), asyncio.Event()
    server.fault = lambda asked, reply: Reply(status=503)
    going = asyncio.ensure_future(watch.run(stop, hint, 0.02))
    await until(lambda: len(server.asked) > 20)
    assert len(world.complained) == 1 and "503" in world.complained[0]
    server.fault = None
    await until(lambda: bool(world.told))
    stop.set()
    await going


async def test_an_end_in_mid_fetch_is_no_end_of_patience(server: SourceServer, world: World) -> None:
    """SIGTERM while a registry is slow: nothing is published, and nothing is left to wait for."""
    watch, stop, hint = world.watch(), asyncio.Event(), asyncio.Event()
    slow = asyncio.Event()

    def wait(asked: Asked, reply: Reply) -> Reply | None:
        slow.set()
        return Reply(status=503, headers={"Retry-After": "1"})

    server.fault = wait
    going = asyncio.ensure_future(watch.run(stop, hint, 3600))
    await slow.wait()
    stop.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await going
    assert world.told == []


async def test_a_real_webhook_of_mlflow_is_believed_and_others_are_not() -> None:
    recorded = json.loads((FOLDER / "mlflow-webhook.json").read_text())
    headers, body, secret = recorded["headers"], recorded["body"].encode(), recorded["secret"]
    sent = int(headers["X-MLflow-Timestamp"])
    hints: list[str] = []
    now = [float(sent + 5)]
    hook = MlflowWebhook(secret, "anomaly", "champion", lambda: hints.append("look"), lambda: now[0])
    other = MlflowWebhook(secret, "anomaly", "challenger", lambda: hints.append("wrong"), lambda: now[0])
    sides = [web.AppRunner(each.application()) for each in (hook, other)]
    for side in sides:
        await side.setup()
        await web.TCPSite(side, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:

        async def post(
            data: bytes = body, side: web.AppRunner = sides[0], changed: dict[str, str] | None = None
        ) -> int:
            url = f"http://127.0.0.1:{side.addresses[0][1]}{PATH}"
            async with session.post(url, data=data, headers={**headers, **(changed or {})}) as answer:
                return answer.status

        assert await post() == 200 and hints == ["look"]
        assert await post(side=sides[1]) == 200 and hints == ["look"], "another alias is nothing to us"
        assert await post(body + b" ") == 401
        assert await post(changed={"X-MLflow-Signature": "v1,AAAA"}) == 401
        assert await post(changed={"X-MLflow-Signature": "\u00e9"}) == 401
        assert await post(changed={"X-MLflow-Timestamp": str(sent + 1)}) == 401
        now[0] = sent + 301.0
        assert await post() == 401, "an old delivery is no new one"
        now[0] = float(sent)
        for data, due in ((b"[]", 400), (b"x", 400), (b'{"entity":"prompt","action":"created","data":{}}', 200)):
            signed = signature(secret.encode(), headers["X-MLflow-Delivery-Id"], str(sent), data)
            assert await post(data, changed={"X-MLflow-Signature": signed}) == due
    assert hints == ["look"]
    for side in sides:
        await side.cleanup()
    with pytest.raises(UsageError, match="too short"):
        MlflowWebhook("short", "a", "b", lambda: None)


@pytest.mark.parametrize(
    "text", ["mlflow:", "mlflow:models:/x", "mlflow:models:/x@", "mlflow:runs:/1", "mlflow:s3://x"]
)
def test_addresses_that_name_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="names no model"):
        fetching.parse(text)


def test_which_server_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI"):
        fetching.parse(ALIAS)


async def test_the_signed_digest_is_what_sha256sum_says(server: SourceServer) -> None:
    async with fetching.fetched(fetching.parse(ALIAS)) as found:
        command = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
        shell = await asyncio.create_subprocess_shell(command, cwd=found.path, stdout=asyncio.subprocess.PIPE)
        said, _ = await shell.communicate()
        assert found.document["sha256"] == said.decode().split()[0]
    async with fetching.fetched(fetching.parse(f"{ALIAS}/model.onnx")) as found:
        assert found.document["sha256"] == hashlib.sha256(FILES["model.onnx"]).hexdigest()


async def test_the_command_watches_until_it_is_ended(
    server: SourceServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(world.shop.root / "state"))
    program = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("modelsync"),
        *("watch", ALIAS, str(world.shop.path), "anomaly", "--keys", str(world.shop.keys), "--every", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None and program.stderr is not None
    async with asyncio.timeout(60):
        first = json.loads(await program.stdout.readline())
        promote(server)
        second = json.loads(await program.stdout.readline())
    assert (first["version"], first["source"]) == (1, "models:/anomaly/1")
    assert (second["version"], second["source"]) == (2, "models:/anomaly/2")
    program.terminate()
    assert await program.wait() == 0
    assert await program.stderr.read() == b""
    (memory,) = (world.shop.root / "state" / "modelsync").iterdir()
    assert json.loads(memory.read_text())["revision"] == "models:/anomaly/2"


def test_wrong_words_of_watch_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(monkeypatch, capsys)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert run("init", tmp_path / "store", "--keys", tmp_path / "keys").code == 0
    (tmp_path / "secret").write_text("long enough to be a secret")
    store, secret = tmp_path / "store", ("--webhook-secret", tmp_path / "secret", "--keys", tmp_path / "keys")
    refused_(run("watch", ALIAS, store), 2, "NAME")
    refused_(run("watch", store, tmp_path, "name"), 2, "no source")
    refused_(run("watch", store, tmp_path, *secret), 2, "not for a folder")
    refused_(run("watch", "hf:acme/x", store, "x", *secret), 2, "alias in MLflow")
    refused_(run("watch", ALIAS, store, "x", *secret), 3, "offline")
    refused_(run("watch", ALIAS, store, "Bad Name"), 2, "not a model name")
    refused_(run("publish", store, "x", ALIAS, "--git"), 2, "--git")
    refused_(run("publish", store, "x", ALIAS, "--meta", "source=me", "--keys", tmp_path / "keys"), 2, "'source'")
    refused_(run("publish", store, "x", "s3://bucket/x"), 2, "neither a path that exists nor a source")
