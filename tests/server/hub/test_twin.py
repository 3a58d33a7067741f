"""Twin documents: merge patches as in RFC 7396, versions, and every documented limit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_server.iothub import twin_document
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.twin_document import Section

NOW = "2026-01-02T03:04:05.000000Z"


def merge(values: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    return twin_document.patched(Section(values), patch, NOW, name="reported").values


@pytest.mark.parametrize(
    ("values", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "x"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_a_patch_merges_as_in_rfc_7396(values: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]) -> None:
    assert merge(values, patch) == result


def test_a_patch_leaves_the_old_section_alone_and_counts_one_version() -> None:
    old = Section({"a": {"b": 1}}, {"a": {"b": {"$lastUpdated": "then"}}}, 7)
    new = twin_document.patched(old, {"a": {"b": 2}}, NOW, name="reported")
    assert old.values == {"a": {"b": 1}}
    assert (new.version, new.values) == (8, {"a": {"b": 2}})
    assert new.for_device() == {"a": {"b": 2}, "$version": 8}


def test_metadata_says_when_each_property_changed() -> None:
    old = twin_document.patched(Section(), {"a": {"b": 1, "c": 2}}, "then", name="desired")
    new = twin_document.patched(old, {"a": {"b": 3}, "d": 4}, NOW, name="desired")
    assert new.metadata == {
        "$lastUpdated": NOW,
        "a": {"$lastUpdated": NOW, "b": {"$lastUpdated": NOW}, "c": {"$lastUpdated": "then"}},
        "d": {"$lastUpdated": NOW},
    }
    gone = twin_document.patched(new, {"a": None}, NOW, name="desired")
    assert "a" not in gone.metadata


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"property": "value"}
    for _ in range(levels):
        value = {"level": value}
    return value


ALLOWED: dict[str, dict[str, Any]] = {
    "a value of 4 KB": {"a": "x" * 4096},
    "ten levels": nested(10),
    "the largest integer": {"a": 2**52 - 1, "b": -(2**52)},
    "a key of 1 KB": {"k" * 1024: 1},
    "fractions and booleans": {"a": 1.5, "b": True},
    "arrays": {"a": [1, "two", {"three": 3}]},
    "almost 32 KB": {f"k{i}": "x" * 4094 for i in range(7)} | {"last": "x" * 4000},
}
REFUSED: dict[str, dict[str, Any]] = {
    "a value over 4 KB": {"a": "x" * 4097},
    "a value over 4 KB in UTF-8": {"a": "é" * 2049},
    "eleven levels": nested(11),
    "an integer of 2^52": {"a": 2**52},
    "a very negative integer": {"a": {"b": [-(2**52) - 1]}},
    "a dot in a key": {"a.b": 1},
    "a dollar in a key": {"x": {"$a": 1}},
    "a blank in a key": {"a b": 1},
    "a control character in a key": {"a\x01": 1},
    "a C1 control character in a key": {"a\x85": 1},
    "an empty key": {"": 1},
    "a key over 1 KB": {"k" * 1025: 1},
    "a forbidden key in an array": {"a": [{"b.c": 1}]},
    "over 32 KB": {f"k{i}": "x" * 4096 for i in range(8)},
}


@pytest.mark.parametrize("patch", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_within_the_limits_is_taken(patch: dict[str, Any]) -> None:
    assert merge({}, patch) == patch


@pytest.mark.parametrize("patch", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_beyond_a_limit_is_refused_with_400(patch: dict[str, Any]) -> None:
    with pytest.raises(HubError) as caught:
        merge({}, patch)
    assert caught.value.status == 400


def test_limits_hold_for_the_sum_of_many_patches() -> None:
    section = Section()
    with pytest.raises(HubError):
        for index in range(9):
            section = twin_document.patched(section, {f"k{index}": "x" * 4000}, NOW, name="reported")
    assert section.version == 9


def test_tags_are_merged_within_8_kb() -> None:
    assert twin_document.merged_tags({"a": 1, "b": 2}, {"a": None}) == {"b": 2}
    with pytest.raises(HubError):
        twin_document.merged_tags({"a": "x" * 4096}, {"b": "x" * 4096})


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b'{"a":NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused_with_400(body: bytes) -> None:
    with pytest.raises(HubError) as caught:
        twin_document.parse_object(body)
    assert caught.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text("xyz", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


def rfc_7396(target: Any, patch: Any) -> Any:
    """The RFC's own pseudo-code."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = rfc_7396(result.get(key), value)
    return result


@given(OBJECTS, OBJECTS)
def test_every_merge_agrees_with_the_rfcs_pseudo_code(first: dict[str, Any], second: dict[str, Any]) -> None:
    start = rfc_7396({}, first)
    assert merge(start, second) == rfc_7396(start, second)
