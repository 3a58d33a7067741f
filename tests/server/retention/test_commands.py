"""`modelsync retain`, `gc`, `upgrade-store`, `verify --sample` as an operator types them, with a local hub's fleet."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelsync_protocol import twin
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.retention.fleet_use import together, use_of
from modelsync_server.retention.policy import Use
from modelsync_server.store import open_store
from modelsync_server.store.collected import MARK
from modelsync_server.trust import read_catalogue
from tests.support.addresses import loopback_address
from tests.support.modelsync_command import Run, refused, runner
from tests.support.shop import Shop

MODEL = "net"
NOBODY = "f" * 64


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("MODELSYNC_KEYS", str(tmp_path / "keys"))
    return runner(monkeypatch, capsys)


async def filled(root: Path) -> Shop:
    """Five versions of a model and two of another; keys beside it."""
    shop = await Shop.open(root)
    body = bytes(range(256)) * 12
    for number in range(1, 6):
        await shop.publish_bytes(MODEL, body[: 400 * number] + b"x" * number + body[400 * number :])
    for number in (1, 2):
        await shop.publish_bytes("other", body[::-1] + b"y" * number)
    return shop


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled")
    asyncio.run(filled(root))
    return root


@pytest.fixture
def store(pattern: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    for name in ("store", "keys"):
        shutil.copytree(pattern / name, tmp_path / name)
    return tmp_path / "store"


def digests(store: Path, model: str = MODEL) -> dict[int, str]:
    return dict(asyncio.run(read_catalogue(open_store(str(store)))).model(model).versions)


def objects(store: Path) -> dict[str, int]:
    return {str(path.relative_to(store)): path.stat().st_size for path in store.rglob("*") if path.is_file()}


def test_retain_says_what_goes_and_changes_nothing_until_it_is_told_yes(run: Run, store: Path) -> None:
    before = objects(store)
    dry = run("retain", store, "--keep", "2", "--dry-run")
    assert dry.code == 0 and dry.out.splitlines()[:2] == [f"{MODEL}: versions 1, 2, 3 go.", dry.out.splitlines()[1]]
    assert dry.err.count("No hub was asked who runs them") == 1
    planned = run("retain", store, "--keep", "2", "--dry-run", "--json").json
    assert planned["prune"] == {MODEL: [1, 2, 3]} and planned["pruned"] is False and planned["stranded"] == []
    assert f"{planned['objects']} objects, {planned['bytes']:,} bytes, are freed" in dry.out
    asked = run("retain", store, "--keep", "2")
    assert asked.code == 2 and asked.err.endswith("read what would go, then give --yes.\n")
    assert asked.out == dry.out, "it has been read by then"
    assert objects(store) == before

    done = run("retain", store, "--keep", "2", "--yes", "--json").json
    assert done == {**planned, "pruned": True}
    assert sorted(digests(store)) == [4, 5] and sorted(digests(store, "other")) == [1, 2]
    again = run("retain", store, "--keep", "2", "--yes")
    assert again.out.startswith("Nothing has to go.\n0 objects, 0 bytes")

    young = run("gc", store)
    assert young.out.startswith("0 objects, 0 bytes, were deleted; ") and not young.out.endswith(" 0 are too young.\n")
    would = run("gc", store, "--older-than", "0", "--dry-run", "--json").json
    left = objects(store)
    collected = run("gc", store, "--older-than", "0", "--json").json
    assert collected == {**would, "deleted": True} and would["deleted"] is False
    gone = {path: size for path, size in left.items() if path not in objects(store)}
    assert (len(gone), sum(gone.values())) == (collected["objects"], collected["bytes"])
    assert set(objects(store)) <= set(before) | set(left) and MARK not in objects(store)
    freed = {
        path
        for path in before
        if path not in objects(store) and path.split("/")[0] in ("packs", "manifests", "updates")
    }
    assert (len(freed), sum(before[path] for path in freed)) == (planned["objects"], planned["bytes"])
    assert run("verify", store).code == 0


def test_a_sample_is_verified_and_a_store_given_own_chains(run: Run, store: Path) -> None:
    assert run("verify", store, "--sample", "2").out.startswith("2 versions and ")
    assert run("verify", store, "--sample", "100%", "--json").json["versions"] == 7
    assert run("upgrade-store", store).out == "2 model(s) have chains of their own now.\n"
    assert run("upgrade-store", store, "--json").json == {"moved": []}
    assert run("verify", store, "--sample", "50%").code == 0
    (store / "manifests" / digests(store)[5]).unlink()
    damaged = run("verify", store, "--sample", "100%")
    assert damaged.code == 3 and " 0 problems" not in damaged.out and digests(store)[5][:12] in damaged.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("retain STORE", 2, "say what to keep"),
        ("retain STORE nett --keep 1", 2, "did you mean 'net'"),
        ("retain NOWHERE --keep 1", 2, "modelsync init"),
        ("retain STORE --keep 1 --keep-reported STORE", 2, "not the state directory of a local hub"),
        ("retain STORE --keep 1 --keep-reported what", 2, "connection string"),
        ("retain STORE --keep 1 --keys NOWHERE", 3, "no signing keys"),
        ("gc NOWHERE", 2, "modelsync init"),
        ("verify STORE --sample 0", 2, "--sample takes"),
        ("verify STORE --sample 101%", 2, "--sample takes"),
        ("upgrade-store STORE --keys NOWHERE", 3, "no signing keys"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_lost(
    run: Run, pattern: Path, monkeypatch: pytest.MonkeyPatch, words: str, code: int, said: str
) -> None:
    monkeypatch.setenv("MODELSYNC_KEYS", str(pattern / "keys"))
    before = objects(pattern)
    places = {"STORE": str(pattern / "store"), "NOWHERE": str(pattern / "nowhere")}
    refused(run(*(places.get(word, word) for word in words.split())), code, said)
    assert objects(pattern) == before


@pytest.mark.parametrize("hours", ["inf", "nan", "1e300", "-1", "soon"])
def test_hours_that_are_no_time_are_refused(run: Run, pattern: Path, hours: str) -> None:
    found = run("gc", pattern / "store", "--older-than", hours)
    assert found.code == 2 and "--older-than" in found.err and "Traceback" not in found.err


@pytest.fixture
async def hub(tmp_path: Path, worker_id: str) -> AsyncIterator[Hub]:
    async with Hub(tmp_path / "hub", HubAddress(loopback_address(worker_id), service_port=0)) as running:
        yield running


def device(hub: Hub, name: str, holds: str | None, wish: object = None, module: str | None = None) -> None:
    """A twin that reports a manifest's digest and has a version desired of it."""
    hub.add_device(name, module)
    if wish is not None:
        hub.set_desired(name, {twin.SECTION: {"models": {MODEL: {"version": wish}}}}, module)
    if holds is not None:
        reported = {"version": 1, "digest": holds, "state": "active"}
        hub.registry.report(Identity(name, module), {twin.SECTION: {"models": {MODEL: reported}}})


def fleet(hub: Hub, versions: dict[int, str]) -> None:
    """Devices on versions 1 and 5, one on bytes of nobody's, an Edge module on 2, one that is to run 3, one 9."""
    device(hub, "a1", versions[1], 5)
    device(hub, "a2", versions[1], 5)
    device(hub, "b", versions[5])
    device(hub, "c", NOBODY)
    device(hub, "d", versions[2], module="edge")
    device(hub, "e", None, 3)
    device(hub, "f", versions[5], 9, module="edge")
    device(hub, "g", None, "three")
    device(hub, "h", "<script>")


async def test_what_twins_of_devices_and_modules_say_is_counted(hub: Hub) -> None:
    numbers = {number: f"{number:x}" * 64 for number in range(1, 6)}
    fleet(hub, numbers)
    async with ServiceClient(hub.service) as client:
        use = await use_of(client, MODEL)
        assert use == Use({numbers[1]: 2, numbers[5]: 2, numbers[2]: 1, NOBODY: 1}, {5: 2, 3: 1, 9: 1})
        assert await use_of(client, "another-model") == Use({}, {})
        assert together([use, use]).reported[numbers[1]] == 4 and together([use, use]).desired[5] == 4


async def test_what_a_hub_reports_or_desires_is_kept_and_who_is_left_behind_is_told(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    fleet(hub, dict((await read_catalogue(open_store(str(store)))).model(MODEL).versions))
    command = [Path(sys.executable).with_name("modelsync"), "retain", store, MODEL, "--keys", tmp_path / "keys"]
    # A local hub by its state, any hub by its connection string; here it is the same one twice.
    hubs = ("--keep-reported", tmp_path / "hub", "--keep-reported", str(hub.service))
    words = [str(word) for word in (*command, "--keep", "1", *hubs, "--yes")]
    found = await asyncio.to_thread(lambda: subprocess.run(words, capture_output=True, text=True))
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[0] == "net: versions 4 go.", "1 and 2 are reported, 3 is desired, 5 is the newest"
    assert "2 device(s) with version 9 of net: the version that is desired of them is not in the store." in found.stdout
    assert "2 device(s) with bytes that the store does not sign of net: no update leads from" in found.stdout
    assert found.stdout.count("device(s)") == 2 and found.stderr == ""
    assert sorted((await read_catalogue(open_store(str(store)))).model(MODEL).versions) == [1, 2, 3, 5]
