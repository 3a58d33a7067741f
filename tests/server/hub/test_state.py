"""State on disk: complete after a kill, one hub at a time, never mixed up with another version's."""

from __future__ import annotations

import sqlite3
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.hub import certificates
from modelsync_server.hub.hub import Hub, HubAddress, add_device, stored_service
from modelsync_server.hub.state import State
from modelsync_server.iothub.identity import Identity, from_client_id
from modelsync_server.iothub.twin_document import Section


def test_what_was_saved_is_read_by_the_next_process_without_a_clean_close(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.add(Identity("pi"))
    twin = state.twin(Identity("pi"))
    assert twin is not None
    changed = type(twin)({"t": 1}, Section({"a": "é\ud800"}, {"m": {}}, 5), Section({"b": 1}, {}, 6), 9, 4)
    state.save_twin(Identity("pi"), changed)
    state.save_subscriptions(Identity("pi"), frozenset({"x"}))
    copied = tmp_path / "copy"
    copied.mkdir()
    for name in ("hub.db", "hub.db-wal"):
        (copied / name).write_bytes((tmp_path / name).read_bytes())
    with State(copied) as again:
        assert again.twin(Identity("pi")) == changed
        assert again.subscriptions(Identity("pi")) == frozenset({"x"})
    state.close()


def test_adding_a_device_again_keeps_its_key(tmp_path: Path) -> None:
    with State(tmp_path) as state, State(tmp_path) as other:
        first = add_device(state, Identity("pi", "m"), "127.0.0.9")
        assert add_device(other, Identity("pi", "m"), "127.0.0.9") == first
        assert "ModuleId=m" in first and first.endswith("GatewayHostName=127.0.0.9")
        assert state.find(Identity("pi")) is not None


async def test_a_second_hub_on_one_directory_refuses(tmp_path: Path, address: HubAddress) -> None:
    async with Hub(tmp_path, address):
        with pytest.raises(LocalError, match="another hub"):
            await Hub(tmp_path, address).__aenter__()
    async with Hub(tmp_path, address):
        pass


async def test_a_second_hub_on_one_address_refuses_and_leaves_no_lock(tmp_path: Path, address: HubAddress) -> None:
    async with Hub(tmp_path / "a", address) as first:
        with pytest.raises(LocalError, match="can't listen"):
            await Hub(tmp_path / "b", first.address).__aenter__()
    async with Hub(tmp_path / "b", address):
        pass


def test_state_of_another_version_or_no_database_is_refused(tmp_path: Path) -> None:
    State(tmp_path).close()
    with sqlite3.connect(tmp_path / "hub.db") as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(LocalError, match="schema 99"):
        State(tmp_path)
    (tmp_path / "hub.db").write_bytes(b"this is not a database, though it is long enough to look at" * 100)
    with pytest.raises(LocalError):
        State(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError):
        State(tmp_path / "file")


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "hub"
    State(directory).close()
    certificates.ensure(directory, "127.0.0.9")
    for name in ("hub.db", "ca-key.pem", "server-key.pem"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_ca_stays_and_the_server_certificate_follows_the_host(tmp_path: Path) -> None:
    first = certificates.ensure(tmp_path, "127.0.0.9")
    ca, server = first.ca.read_bytes(), first.server.read_bytes()
    assert certificates.ensure(tmp_path, "127.0.0.9").server.read_bytes() == server
    moved = certificates.ensure(tmp_path, "hub.example")
    assert moved.ca.read_bytes() == ca
    certificate = x509.load_pem_x509_certificate(moved.server.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example", "localhost"]
    context = ssl.create_default_context(cafile=str(moved.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))


def test_a_service_connection_needs_a_hub_that_ran(tmp_path: Path) -> None:
    with State(tmp_path) as state, pytest.raises(LocalError, match="no hub ever ran"):
        stored_service(state)


@pytest.mark.parametrize("text", ["", "a/", "/m", "a/b/c", "a b", "a;b", "ü", "x" * 129])
def test_a_bad_id_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="device or module id"):
        from_client_id(text)


def test_every_answer_waits_for_the_disk(tmp_path: Path) -> None:
    with State(tmp_path) as state:
        assert state._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: each commit is on disk"
        assert state._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
