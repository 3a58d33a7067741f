"""The demo's report: its file has the promised keys, its table names what broke, its exit code says so."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from examples.demo.report import DemoReport, Promise, Update

UPDATE = Update("digits", 1, 2, body_bytes=27_500, wire_bytes=31_000, full_bytes=170_000)
FIRST = Update("digits", None, 1, body_bytes=170_000, wire_bytes=174_000, full_bytes=170_000)
HELD = Promise("no request fails", True, "0 of 4,000")
BROKEN = Promise("a cut costs little", False, "900,000 bytes [again]")


def report(*promises: Promise) -> DemoReport:
    return DemoReport(4000, 0, 3, [FIRST, UPDATE], 1234, promises)


def shown(result: DemoReport) -> str:
    out = io.StringIO()
    result.show(Console(file=out, width=120))
    return out.getvalue()


def test_file_has_the_promised_keys(tmp_path: Path) -> None:
    path = tmp_path / "demo-report.json"
    path.write_text("an older report")
    report(HELD).write(path)
    assert json.loads(path.read_text()) == {
        "ok": True,
        "requests": 4000,
        "failed": 0,
        "swaps": 3,
        "updates": [
            {
                "model": "digits",
                "from": None,
                "to": 1,
                "bytes": 170_000,
                "wire_bytes": 174_000,
                "full_bytes": 170_000,
            },
            {
                "model": "digits",
                "from": 1,
                "to": 2,
                "bytes": 27_500,
                "wire_bytes": 31_000,
                "full_bytes": 170_000,
            },
        ],
        "refetched_bytes": 1234,
        "promises": [{"name": "no request fails", "held": True, "detail": "0 of 4,000"}],
    }


def test_one_broken_promise_breaks_the_report() -> None:
    assert report(HELD).exit_code == 0
    assert report(HELD, BROKEN).exit_code == 1
    assert report(HELD, BROKEN).to_json()["ok"] is False


def test_report_without_promises_is_not_ok() -> None:
    assert report().exit_code == 1


def test_table_shows_every_update_and_names_the_broken_promise() -> None:
    text = shown(report(HELD, BROKEN))
    assert all(piece in text for piece in ("27,500", "31,000", "16.2%", "–", "v2", "4,000 requests"))
    assert "BROKEN" in text
    assert "900,000 bytes [again]" in text
    assert "a promise broke" in text
    assert "every promise held" in shown(report(HELD))
