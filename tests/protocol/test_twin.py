"""The twin schema: nonsense never raises and is named; reports fit; patches carry only what changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol import caps, twin
from modelsync_protocol.errors import UsageError
from modelsync_protocol.twin import Policy, Window, Wish

KEYS = ["modelsync", "models", "origin", "policy", "version", "state", "retry", "windows", "a", "$version"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["modelsync", "models", "origin", "policy", "version", "state", "retry", "windows", "a", "$version"]
            )
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def parse(**section: Any) -> twin.Desired:
    return twin.parse_desired({"$version": 3, "modelsync": section})


def test_a_full_document_is_understood() -> None:
    desired = parse(
        origin="https://models.example.com/store?sig=x",
        models={"a": {"version": 42, "retry": 7}, "b": {"state": "absent"}, "c": {}, "d": None, "e": {"note": "x"}},
        policy={"bytes_per_day": 0, "bytes_per_month": 9, "rate_limit": 5, "windows": ["22:00-6:30"], "hold": True},
        future={"unknown": 1},
    )
    assert desired.version == 3 and not desired.problems
    assert desired.origin == "https://models.example.com/store?sig=x"
    assert desired.models == {"a": Wish(42, retry="7"), "b": Wish(absent=True), "c": Wish(), "e": Wish()}
    assert desired.policy == Policy(0, 9, 5, (Window(1320, 390),), True)


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"origin": "ftp://x"}, "origin"),
        ({"origin": 3}, "origin"),
        ({"origin": "http://user:secret@x"}, "origin"),
        ({"origin": "http://[broken"}, "origin"),
        ({"models": []}, "models"),
        ({"models": {"a": 42}}, "models/a"),
        ({"models": {"A b": {"version": 1}}}, "models/A_b"),
        ({"models": {"a": {"version": "1"}}}, "models/a/version"),
        ({"models": {"a": {"version": True}}}, "models/a/version"),
        ({"models": {"a": {"version": 1.5}}}, "models/a/version"),
        ({"models": {"a": {"version": 0}}}, "models/a/version"),
        ({"models": {"a": {"version": 2**52}}}, "models/a/version"),
        ({"models": {"a": {"state": "gone"}}}, "models/a/state"),
        ({"models": {"a": {"version": 1, "retry": []}}}, "models/a/retry"),
        ({"policy": 1}, "policy"),
        ({"policy": {"bytes_per_day": -1}}, "policy/bytes_per_day"),
        ({"policy": {"rate_limit": 0}}, "policy/rate_limit"),
        ({"policy": {"windows": "25:00-26:00"}}, "policy/windows"),
        ({"policy": {"windows": 5}}, "policy/windows"),
        ({"policy": {"hold": "yes"}}, "policy/hold"),
    ],
)
def test_a_wrong_value_is_left_out_and_named(section: dict[str, Any], path: str) -> None:
    desired = twin.parse_desired({"modelsync": {"models": {"good": {"version": 1}}, **section}})
    assert list(desired.problems) == [path]
    assert desired.problems[path].endswith(".")
    if "models" not in section:
        assert desired.models == {"good": Wish(1)}


@given(JSON)
def test_nonsense_never_raises(document: Any) -> None:
    for candidate in (
        document,
        {"modelsync": document},
        {"modelsync": {"models": {"a": document}, "policy": document}},
    ):
        desired = twin.parse_desired(candidate)
        assert all(isinstance(wish, Wish) for wish in desired.models.values())
        assert len(desired.problems) <= 17
        assert not any(c in key for key in desired.problems for c in ". $")


PLAIN = st.recursive(
    st.none() | st.integers() | st.booleans(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=9,
)
OBJECT = st.dictionaries(st.sampled_from("abcd"), PLAIN)


@given(OBJECT, OBJECT)
def test_a_difference_applied_gives_the_new_document(before: dict[str, Any], after: dict[str, Any]) -> None:
    wanted = twin.merge({}, after)  # merge patches know no null values
    patch = twin.difference(before, wanted)
    assert twin.merge(before, patch) == wanted
    assert twin.difference(wanted, wanted) == {}


def test_a_difference_carries_only_what_changed() -> None:
    before = {"models": {"a": {"state": "active", "version": 1}, "b": {"state": "idle"}}, "$version": 5}
    after = {"models": {"a": {"state": "active", "version": 2}}}
    assert twin.difference(before, after) == {"models": {"a": {"version": 2}, "b": None}}


def _status(models: int, text: str = "x") -> dict[str, Any]:
    model = {
        "version": 2, "digest": "a" * 64, "generation": 3, "state": "waiting", "since": "2026-11-20T12:00:00Z",
        "desired": 3, "previous": 1, "progress": {"done": 5, "total": 9}, "bytes": 5120, "hold": False,
        "error": {"code": "offline", "text": text},
    }  # fmt: skip
    return {
        "models": {f"model-{number:04}": dict(model) for number in range(models)},
        "daemon": {"version": "0.1.0", "formats": [1], "pid": 1, "connected": True},
        "ledger": {"day": {"received": 1, "sent": 1}, "month": {"received": 1, "sent": 1}},
    }


@pytest.mark.parametrize(
    ("layers", "missing"),
    [
        (None, None),
        (["landlock 4", "seccomp"], None),
        (["rlimits"], ["landlock", "seccomp"]),
        (["seccomp"], ["landlock"]),
    ],
)
def test_a_report_says_which_layer_of_confinement_is_missing_and_nothing_if_all_is_well(
    layers: list[str] | None, missing: list[str] | None
) -> None:
    status = {"models": {}, "daemon": {"version": "1", "confined_by": layers}, "ledger": {}}
    assert twin.build_reported(status)["modelsync"]["daemon"].get("unconfined") == missing


def test_a_report_shows_what_the_hub_may_know() -> None:
    shown = twin.build_reported(_status(1), {"origin": "is wrong."})["modelsync"]
    assert set(shown["models"]["model-0000"]) == {
        "version", "digest", "generation", "state", "since", "desired", "progress", "bytes", "error",
    }  # fmt: skip
    assert shown["daemon"] == {"version": "0.1.0", "formats": [1]} and shown["problems"] == {"origin": "is wrong."}


@pytest.mark.parametrize("models", [1, 60, 150, 300, 2000])
def test_a_report_always_fits(models: int) -> None:
    document = twin.build_reported(_status(models, "long " * 200))
    assert len(json.dumps(document, separators=(",", ":"))) <= caps.MAX_TWIN_BYTES
    kept = document["modelsync"]["models"]
    assert all({"version", "state"} <= set(model) for model in kept.values())
    assert len(kept) == models or models > 300


def test_windows_may_span_midnight() -> None:
    night = twin.parse_window("22:00-06:00")
    assert night.holds(1320) and night.holds(0) and night.holds(359)
    assert not night.holds(360) and not night.holds(1319)
    assert twin.parse_window("00:00-24:00").holds(1439)
    for text in ("", "9-10", "24:30-01:00", "10:00-10:00", None):
        with pytest.raises(ValueError, match="not a time window"):
            twin.parse_window(text)


@pytest.mark.parametrize("windows", [["soon"], 7, ["24:00-00:00"], "never"])
def test_windows_of_which_none_can_be_read_are_all_closed(windows: object) -> None:
    desired = twin.parse_desired({"modelsync": {"policy": {"windows": windows}}})
    assert desired.problems.keys() == {"policy/windows"}
    assert desired.policy.windows and not any(w.holds(minute) for w in desired.policy.windows for minute in range(1440))


def test_keys_of_a_policy_that_are_unknown_or_negative_are_named() -> None:
    policy = {"bytes_per_dya": 5, "rate_limit": -1, "bytes_per_month": -2}
    problems = twin.parse_desired({"modelsync": {"policy": policy}}).problems
    assert problems.keys() == {"policy/bytes_per_dya", "policy/rate_limit", "policy/bytes_per_month"}
    assert "bytes_per_day" in problems["policy/bytes_per_dya"]


@pytest.mark.parametrize("name", ["a.b", "$a", "a b", "Big"])
def test_a_patch_that_names_no_model_is_refused_before_it_is_sent(name: str) -> None:
    with pytest.raises(UsageError, match="not a model name"):
        twin.check_model_names({"modelsync": {"models": {name: {"version": 1}}}})


def test_a_wrong_name_that_a_twin_has_can_be_deleted() -> None:
    twin.check_model_names({"modelsync": {"models": {"Big": None, "anomaly": {"version": 1}}}})
