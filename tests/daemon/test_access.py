"""The origin's secret query: where it is found, when another is tried, what is refused without being repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelsync_daemon.transfer import origin_secret
from modelsync_daemon.transfer.errors import AccessRefused
from modelsync_daemon.transfer.origin_secret import Access
from modelsync_daemon.workers.messages import error_of, kind_of
from modelsync_protocol.errors import UnreachableError, UsageError

FIRST, SECOND = "sv=1&sig=a%2Bb", "sv=1&sig=c"


def test_the_first_file_counts_and_the_second_when_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mounted").write_text(f"?{FIRST}\n")
    (tmp_path / "sent").write_text(SECOND)
    found = Access([tmp_path / "absent", tmp_path / "mounted", tmp_path / "sent"])
    assert found.query == FIRST
    assert found.refused(FIRST) and found.query == SECOND
    assert not found.refused(SECOND), "there is no other"
    (tmp_path / "mounted").write_text("sv=1&sig=new")
    assert found.refused(SECOND) and found.query == "sv=1&sig=new"


def test_without_files_there_is_no_secret(tmp_path: Path) -> None:
    assert Access(()).query == "" and Access([tmp_path / "absent"]).query == ""
    (tmp_path / "bad").write_bytes(b"\xff\xfe two words")
    assert Access([tmp_path / "bad"]).query == ""


def test_what_came_by_method_is_kept_for_its_owner_only_and_forgotten_on_demand(tmp_path: Path) -> None:
    assert origin_secret.keep(tmp_path, "se=2026-12-01T00%3A00%3A00Z&sig=x") == "2026-12-01T00:00:00Z"
    path = tmp_path / origin_secret.FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert origin_secret.keep(tmp_path, None) is None and not path.exists()
    assert origin_secret.keep(tmp_path, None) is None


@pytest.mark.parametrize("text", ["", "  ", "two words", "a\nb", "ä", "x" * 5000, "a#b", '"quoted"', "<x>"])
def test_what_is_no_query_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        origin_secret.parse(text)
    assert not text.strip() or text not in str(caught.value)


def test_a_refused_secret_keeps_its_kind_between_worker_and_daemon() -> None:
    error = error_of(kind_of(AccessRefused("no.")), "no.")
    assert isinstance(error, AccessRefused) and isinstance(error, UnreachableError)


def test_queries_are_joined() -> None:
    assert origin_secret.joined("", "a=1") == "a=1" and origin_secret.joined("b=2", "a=1") == "b=2&a=1"
