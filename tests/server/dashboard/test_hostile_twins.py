"""Whatever a twin holds, pages are made from it: random documents of the right and the wrong shape."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from modelsync_server.dashboard import history, twins
from modelsync_server.dashboard.counting import _crossed
from modelsync_server.dashboard.listing import _row
from modelsync_server.dashboard.render import environment, pretty
from modelsync_server.dashboard.tables import Table

KEYS = some.sampled_from(
    ["modelsync", "models", "anomaly", "<b>", "version", "state", "error", "code", "text", "since", "hold", "bytes",
     "progress", "done", "total", "ledger", "day", "month", "received", "sent", "daemon", "unconfined", "problems",
     "$metadata", "$lastUpdated", "inference", "policy", "bytes_per_day", "properties", "reported", "desired", "tags",
     "configurations", "status", "deviceId", "moduleId", "lastActivityTime"]
)  # fmt: skip
TIMES = ("2026-11-28T12:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z", "2026-02-31T00:00:00Z",
         "9999-12-31T23:59:59-14:00", "0002-01-01T00:00:00+14:00", "2026-11-28T12:00:00+99:99")  # fmt: skip
COLUMNS = ["wanted", "version", "state", "error", "hold", "devices"]
LEAVES = some.one_of(
    some.none(), some.booleans(), some.integers(-(2**60), 2**60), some.floats(), some.text(max_size=12),
    some.sampled_from([*TIMES, "active", "\u202e<script>", "x" * 5000]),
)  # fmt: skip
ANYTHING = some.recursive(
    LEAVES, lambda inner: some.one_of(some.lists(inner, max_size=3), some.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=30,
)  # fmt: skip


def twin(reported: Any, desired: Any, metadata: Any) -> dict[str, Any]:
    return {
        "deviceId": "d", "lastActivityTime": reported, "tags": desired,
        "properties": {
            "reported": {"modelsync": reported, "$metadata": {"modelsync": metadata}},
            "desired": {"modelsync": desired, "$metadata": {"modelsync": metadata}},
        },
    }  # fmt: skip


def test_no_time_is_too_strange() -> None:
    for when in TIMES:
        told = {"models": {"anomaly": {"state": "active", "since": when}}}
        metadata = {"models": {"anomaly": {"state": {"$lastUpdated": when}, "since": {"$lastUpdated": when}}}}
        document = twin(told, told, metadata) | {"lastActivityTime": when}
        found = twins.device(document, [], 1e9)
        assert found.contact in ("", "2026-11-28 12:00:00") and _row(document, "").contact == found.contact
        assert all(len(event.when) in (0, 19) for event in history.events([document], [], []))


@settings(max_examples=50, deadline=None)
@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_every_page_of_a_device_is_made_from_any_twin(one: Any, other: Any, metadata: Any, inner: Any) -> None:
    models = {"models": {"anomaly": one, "/<b>": other}, "ledger": inner, "problems": other, "daemon": inner}
    for document in (
        twin(one, other, metadata),
        twin(models, models, metadata),
        {"deviceId": inner, "properties": one},
    ):
        seen = history.Seen()
        seen.look("d", [twin({}, {}, {})], 0.0)
        changed = seen.look("d", [document, document], 1e9)
        found = twins.device(document, [document], 1e9)
        events = history.events([document], changed, [{"when": "x", "who": "y"}])
        rows = [(each.when, each.source, each.model, each.what) for each in events]
        table = Table("history", ("when", "source", "model", "what"), rows).arranged("-what", "")
        assert table.csv() and "<script>" not in str(environment("EUR").from_string("{{ x }}").render(x=found))
        assert "\u202e" not in table.csv() + pretty(document)
        _row(document, "anomaly")
        _row(document, "")


@settings(max_examples=50, deadline=None)
@given(some.lists(some.dictionaries(some.sampled_from(COLUMNS), ANYTHING), max_size=6))
def test_any_groups_are_counted(rows: list[dict[str, Any]]) -> None:
    found = _crossed(rows, True)
    assert all(group.devices >= 0 and len(group.value) < 40 for group in found.versions + found.states + found.errors)
