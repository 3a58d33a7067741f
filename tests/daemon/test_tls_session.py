"""The TLS session of the last visit is resumed: fewer bytes, and never where it should not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelsync_daemon.transfer import tls_session
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_protocol.errors import RefusedError
from tests.server.origin.conftest import certificate, make_store, serve

__all__ = ["certificate"]


async def _visit(url: str, ca: Path | None, ticket: Path | None) -> int:
    """Bytes that come on the wire for one small object."""
    origin = Origin(url, ca, ticket=ticket, stall_seconds=20)
    async with origin:
        assert await origin.get("bundles/anomaly", 100) == b"bundle"
    return origin.traffic.received


async def test_a_second_visit_costs_no_certificate(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    ticket, store = tmp_path / "machine" / "tls-session", make_store(tmp_path / "store")
    with serve(store, certificate) as origin:
        full = await _visit(origin.url, certificate[0], ticket)
        assert ticket.stat().st_mode & 0o777 == 0o600
        resumed = await _visit(origin.url, certificate[0], ticket)
        assert resumed < full - 500
        assert await _visit(origin.url, certificate[0], ticket) == resumed, "as often as one comes"
        assert await _visit(origin.url, certificate[0], None) > resumed + 200, "without a file there is no session"


async def test_another_ca_and_a_file_that_others_may_write_count_for_nothing(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    ticket, store = tmp_path / "tls-session", make_store(tmp_path / "store")
    other = tmp_path / "ca.pem"
    other.write_bytes(b"# the same in another file\n" + certificate[0].read_bytes())
    with serve(store, certificate) as origin:
        full = await _visit(origin.url, certificate[0], ticket)
        assert await _visit(origin.url, other, ticket) > full - 300
        ticket.chmod(0o666)
        assert await _visit(origin.url, other, ticket) > full - 300


@pytest.mark.parametrize("damage", [b"", b"modelsync tls session 1\n", b"\0" * 2000])
async def test_a_damaged_file_leads_to_a_full_connection(
    damage: bytes, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    ticket, store = tmp_path / "tls-session", make_store(tmp_path / "store")
    with serve(store, certificate) as origin:
        full = await _visit(origin.url, certificate[0], ticket)
        whole = ticket.read_bytes()
        for content in (damage, whole[:-40], whole[:60] + damage, whole[:-1] + b"\xff"):
            ticket.write_bytes(content)
            ticket.chmod(0o600)
            assert await _visit(origin.url, certificate[0], ticket) <= full + 16


async def test_who_is_not_trusted_is_refused_whatever_was_kept(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    ticket, store = tmp_path / "tls-session", make_store(tmp_path / "store")
    with serve(store, certificate) as origin:
        await _visit(origin.url, certificate[0], ticket)
        with pytest.raises(RefusedError):
            await _visit(origin.url, None, ticket)


async def test_without_libssl_in_reach_connections_are_made_in_full(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket, store = tmp_path / "tls-session", make_store(tmp_path / "store")
    monkeypatch.setattr(tls_session, "_library", lambda: None)
    with serve(store, certificate) as origin:
        first = await _visit(origin.url, certificate[0], ticket)
        assert not ticket.exists()
        assert abs(await _visit(origin.url, certificate[0], ticket) - first) < 16
