"""Publishing by itself: from a watched folder, and from an upload container through the Event Grid webhook."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_server.triggers.folder_watch import scan
from tests.support.azurite import ACCOUNT
from tests.support.shop import Shop
from tests.support.webhook import KEY, Hook, Program, hooked


async def test_a_watched_folder_publishes_what_is_complete(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    folder = tmp_path / "drop"
    folder.mkdir()
    program = await Program.start("watch", str(shop.path), str(folder), "--keys", str(shop.keys), "--settle", "1.2")
    body = random.randbytes(40_000)
    with (folder / "anomaly.bin").open("wb") as file:
        for start in range(0, len(body), 10_000):  # written slowly: it must not be published in between
            file.write(body[start : start + 10_000])
            file.flush()
            await asyncio.sleep(0.4)
    first = await program.line()
    assert (first["name"], first["version"]) == ("anomaly", 1)
    (folder / ".hidden.bin").write_bytes(b"x")
    (folder / "upload.bin.part").write_bytes(b"x")
    (folder / "Bad Name.bin").write_bytes(b"x")
    (tmp_path / "next.bin").write_bytes(body[:-50] + b"y" * 50)
    (tmp_path / "next.bin").replace(folder / "anomaly.bin")  # as a careful trainer does
    second = await program.line()
    assert (second["name"], second["version"]) == ("anomaly", 2)
    (folder / "tree").mkdir()
    (folder / "tree" / "a").write_bytes(b"a")
    assert (await program.line())["name"] == "tree"
    os.utime(folder / "anomaly.bin")
    await asyncio.sleep(1.5)
    await program.stop()
    catalogue = await (await shop.repository()).catalogue()
    assert sorted(catalogue.models) == ["anomaly", "tree"]
    assert sorted(catalogue.model("anomaly").versions) == [1, 2], "the same bytes again are no new version"


async def test_what_cannot_be_published_is_told_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    folder = tmp_path / "drop"
    (folder / "bad").mkdir(parents=True)
    (folder / "bad" / "link").symlink_to("/etc/passwd")
    program = await Program.start("watch", str(shop.path), str(folder), "--keys", str(shop.keys), "--settle", "0.2")
    complaint = await program.complaint()
    (folder / "good.bin").write_bytes(b"good")
    assert (await program.line())["name"] == "good"
    complaints = complaint + await program.stop()
    assert complaints.count("bad: ") == 1


def test_a_probe_belongs_to_its_model_and_two_of_a_name_are_one_too_many(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.probe.json", "b.onnx", "b.pkl"):
        (tmp_path / name).write_text("x")
    found = scan(tmp_path)
    assert found["a"].probe == tmp_path / "a.probe.json" and found["b"].path.name == "b.onnx"
    assert sorted(found) == ["a", "b"]


@pytest.fixture
async def hook(tmp_path: Path, azurite_service: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hook]:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite_service)
    (tmp_path / "key").write_text(KEY + "\n")
    async with hooked(tmp_path, azurite_service, "--key-file", str(tmp_path / "key")) as made:
        yield made


async def test_an_upload_is_published_once_however_often_it_is_told(hook: Hook) -> None:
    validation = {
        "id": "1",
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "subject": "",
        "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"},
    }
    assert await hook.post([validation]) == (200, {"validationResponse": validation["data"]["validationCode"]})  # type: ignore[index]
    event = await hook.upload("anomaly/model.bin", b"second")
    answers = await asyncio.gather(*(hook.post([event]) for _ in range(4)))
    assert [status for status, _ in answers] == [200] * 4
    assert (await hook.program.line())["version"] == 2
    newer = await hook.upload("anomaly/model.bin", b"third")
    assert (await hook.post([event]))[0] == 200, "the blob is another one by now"
    assert await hook.versions() == [1, 2]
    assert (await hook.post([newer, newer]))[0] == 200
    assert (await hook.program.line())["version"] == 3
    # A replay of what was withdrawn in the meantime brings nothing back.
    await (await hook.shop.repository()).withdraw("anomaly", 3)
    assert (await hook.post([newer]))[0] == 200
    assert await hook.versions() == [1, 2]


async def test_forged_and_broken_events_publish_nothing(hook: Hook) -> None:
    event = await hook.upload("anomaly/model.bin", b"second")
    for key in (None, "", "k" * 47, "x" * 48):
        assert (await hook.post([event], key))[0] == 401
    wrong: list[Any] = [
        b"no json",
        {},
        [],
        [7],
        [{**event, "data": None}],
        [{**event, "subject": 5}],
        [{**event, "data": {"eTag": "a b"}}],
        [{"id": "1", "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "subject": "", "data": {}}],
    ]
    for body in wrong:
        assert (await hook.post(body))[0] == 400, body
    other = str(event["subject"])
    for subject in (
        other.replace("anomaly/", "stranger/"),
        other.replace("/uploads", "/uploadz"),
        other.replace("anomaly/", ""),
        other.replace("anomaly/", "anomaly/deep/"),
        other + "/../../x",
    ):
        assert (await hook.post([{**event, "subject": subject}]))[0] == 200, subject
    assert (await hook.post([{**event, "eventType": "Microsoft.Storage.BlobDeleted"}]))[0] == 200
    assert (await hook.post([{**event, "data": {"eTag": "0x8D000000"}}]))[0] == 200
    assert await hook.versions() == [1]


async def test_a_webhook_with_offline_keys_or_an_unknown_model_does_not_start(hook: Hook, tmp_path: Path) -> None:
    box = hook.uploads.container_name
    common = ("webhook", str(hook.shop.path), "--keys", str(hook.shop.keys), "--uploads", f"azblob://{ACCOUNT}/{box}")
    unknown = await Program.start(*common, "--model", "other", "--key-file", str(tmp_path / "key"))
    _, err = await unknown.process.communicate()
    assert unknown.process.returncode == 2 and b"other" in err
    shutil.copytree(tmp_path / "safe", tmp_path / "keys" / "offline", dirs_exist_ok=True)
    offline = await Program.start(*common, "--model", "anomaly", "--key-file", str(tmp_path / "key"))
    _, err = await offline.process.communicate()
    assert offline.process.returncode == 3 and b"offline" in err
