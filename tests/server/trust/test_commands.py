"""`modelsync init|refresh|withdraw|keys` as a user calls them: output, JSON keys, errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from modelsync_protocol.errors import ModelsyncError, UsageError
from modelsync_server.cli.keys_commands import register
from modelsync_server.store import open_store
from modelsync_server.trust import NewTarget, Repository


class Shell:
    """Runs commands against one store and one key folder."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.keys = folder / "keys"
        self._app = typer.Typer()
        register(self._app)

    def run(self, *words: str, json_output: bool = False) -> Result:
        """Run one command with --keys; our own errors are raised."""
        extra = ["--json"] if json_output else []
        result = CliRunner().invoke(self._app, [*words, "--keys", str(self.keys), *extra])
        if isinstance(result.exception, ModelsyncError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    def json(self, *words: str) -> dict[str, object]:
        """Run one command with --json and read its only output."""
        document = json.loads(self.run(*words, json_output=True).stdout)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    shell.run("init", str(shell.store))
    return shell


def test_init_says_where_the_store_and_the_root_for_devices_are(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    document = shell.json("init", str(shell.store))
    assert document == {"store": str(shell.store), "trust": str(shell.keys / "root.json")}
    assert (shell.keys / "root.json").read_bytes() == (shell.store / "metadata/1.root.json").read_bytes()


def test_init_names_the_places_for_a_person(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    text = shell.run("init", str(shell.store), "--root-keys", "3", "--root-threshold", "2").stdout
    assert str(shell.keys / "root.json") in text and "offline/" in text


def test_init_twice_is_refused(shell: Shell) -> None:
    with pytest.raises(UsageError, match="is a modelsync store already"):
        shell.run("init", str(shell.store))


def test_no_private_key_lies_in_the_store(shell: Shell) -> None:
    for path in shell.store.rglob("*"):
        assert path.is_dir() or b"PRIVATE" not in path.read_bytes()


def test_refresh_says_until_when_and_is_quiet_otherwise(shell: Shell) -> None:
    document = shell.json("refresh", str(shell.store))
    assert document["warnings"] == [] and str(document["expires"]).endswith("Z")
    result = shell.run("refresh", str(shell.store))
    assert str(document["expires"])[:10] in result.stdout


def test_refresh_needs_a_store(shell: Shell, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run `modelsync init"):
        shell.run("refresh", str(tmp_path))


def test_withdraw_lists_what_is_withdrawn(shell: Shell) -> None:
    async def publish() -> None:
        repository = await Repository.open(open_store(str(shell.store)), str(shell.keys))
        await repository.add_targets([NewTarget("anomaly", number, "f" * 64, 1) for number in (1, 2)])

    asyncio.run(publish())
    assert shell.json("withdraw", str(shell.store), "anomaly", "2") == {"name": "anomaly", "withdrawn": [2]}
    assert "version 2 is withdrawn" in shell.run("withdraw", str(shell.store), "anomaly", "2").stdout
    with pytest.raises(UsageError, match="no version 9"):
        shell.run("withdraw", str(shell.store), "anomaly", "9")


def test_keys_are_listed_rotated_added_and_revoked(shell: Shell) -> None:
    store = str(shell.store)
    listed = shell.json("keys", "list", store)["keys"]
    assert isinstance(listed, list) and [item["roles"] for item in listed] == [
        ["root"],
        ["targets"],
        ["snapshot", "timestamp", "models"],
    ]
    assert all(item["here"] for item in listed)
    (new,) = _strings(shell.json("keys", "rotate", store, "online")["keys"])
    assert new[:16] in shell.run("keys", "list", store).stdout
    (added,) = _strings(shell.json("keys", "add", store, "root")["keys"])
    assert shell.json("keys", "revoke", store, added) == {"revoked": added, "roles": ["root"]}
    assert "has new keys" in shell.run("keys", "rotate", store, "timestamp").stdout
    text = shell.run("keys", "add", store, "timestamp").stdout
    assert "no longer signs" in shell.run("keys", "revoke", store, text.rpartition(" ")[2].strip(".\n")).stdout


def _strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return value
