"""The query language as far as the local hub understands it, and a clear no to the rest."""

from __future__ import annotations

import pytest

from modelsync_server import query
from modelsync_server.iothub.errors import HubError

TWIN = {
    "deviceId": "pi",
    "status": "enabled",
    "tags": {"ring": 2, "site": "Köln AND more", "x-y": True, "list": [3], "wanted": 41, "quoted": "it's"},
    "configurations": {"a-1": {"status": "Applied"}},
    "properties": {"reported": {"modelsync": {"models": {"anomaly": {"version": 41, "state": "active"}}}}},
}
VERSION = "properties.reported.modelsync.models.anomaly.version"


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ("deviceId = 'pi'", True),
        ("deviceId != 'pi'", False),
        ("tags.ring = 2", True),
        ("tags.ring = '2'", False),
        ("tags.ring = true", False),
        ("tags.site = 'Köln AND more' and tags.ring < 3", True),
        ("tags['x-y'] = TRUE", True),
        ("tags.x-y = true", True),
        (f"{VERSION} <> 42", True),
        (f"{VERSION} >= 42", False),
        (f"is_defined({VERSION}) AND status = 'enabled'", True),
        ("is_defined(tags.none)", False),
        ("tags.none != 1", False),
        ("tags.site < 3", False),
        ("tags = 1", False),
        ("tags.ring = 1 OR tags.ring = 2", True),
        ("tags.ring = 1 OR tags.none = 2 OR status = 'enabled'", True),
        ("tags.ring = 2 AND (status = 'disabled' OR deviceId = 'pi')", True),
        ("tags.ring = 2 AND status = 'disabled' OR deviceId = 'pi'", True),
        ("NOT tags.ring = 1", True),
        ("NOT (tags.ring = 2)", False),
        ("NOT tags.none = 2", False),
        ("NOT is_defined(tags.none)", True),
        ("tags.none = 1 AND status = 'disabled' OR status = 'enabled'", True),
        ("tags.ring IN [1, 2, 3]", True),
        ("tags.ring IN ['2', true]", False),
        ("tags.ring NIN [1, 3]", True),
        ("tags.none NIN [1]", False),
        ("deviceId IN ['a', 'pi']", True),
        ("3 IN tags.list", True),
        ("4 IN tags.list", False),
        ("starts_with(deviceId, 'p')", True),
        ("ENDS_WITH(tags.site, 'more') AND contains(tags.site, 'AND')", True),
        ("starts_with(tags.ring, '2')", False),
        ("is_string(tags.site) AND is_number(tags.ring) AND is_bool(tags['x-y']) AND is_object(tags)", True),
        ("is_number(tags['x-y'])", False),
        ("configurations.[[a-1]].status = 'Applied'", True),
        ("properties.reported.modelsync.models.anomaly.version = tags.wanted", True),
        ("tags.quoted = 'it\\'s'", True),
    ],
)
def test_conditions_hold_or_not(where: str, matches: bool) -> None:
    assert query.parse(f"SELECT * FROM devices WHERE {where}").matches(TWIN) is matches


def test_devices_and_modules_are_told_apart_whatever_the_case() -> None:
    assert not query.parse("select * from devices").modules
    assert query.parse(" Select *  From devices.modules ; ").modules


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT FROM devices",
        "SELECT * FROM jobs",
        "SELECT * FROM devices GROUP BY tags.a",
        "SELECT tags.b, COUNT() AS n FROM devices GROUP BY tags.a",
        "SELECT SUM() AS n FROM devices",
        "SELECT TOP x * FROM devices",
        "SELECT * FROM devices WHERE",
        "SELECT * FROM devices WHERE tags.a",
        "SELECT * FROM devices WHERE tags.a = 1 OR",
        "SELECT * FROM devices WHERE (tags.a = 1",
        "SELECT * FROM devices WHERE tags.a IN 1",
        "SELECT * FROM devices WHERE tags.a IN [1",
        "SELECT * FROM devices WHERE is_defined('a')",
        "SELECT * FROM devices WHERE starts_with(deviceId)",
        "SELECT * FROM devices WHERE " + "NOT " * 100 + "tags.a = 1",
        "SELECT * FROM devices WHERE " + "(" * 100 + "tags.a = 1" + ")" * 100,
        "SELECT * FROM devices WHERE tags.a = 1 AND",
        "SELECT * FROM devices WHERE tags.a = 1 tags.b = 2",
        "SELECT * FROM devices WHERE tags.a = 'b",
        "SELECT * FROM devices WHERE tags.a = 007",
        "SELECT * FROM devices WHERE tags.a = \u0663",
        "SELECT * FROM devices WHERE tags.a = 1e999",
        "SELECT * FROM devices WHERE tags.a = " + "9" * 5000,
        "SELECT * FROM devices WHERE " + "a.b = 1 AND " * 1000,
    ],
)
def test_what_is_not_understood_is_refused_with_400(text: str) -> None:
    with pytest.raises(HubError) as caught:
        query.parse(text)
    assert caught.value.status == 400


FLEET = [
    {"deviceId": f"d{number}", "tags": {"size": number}, "properties": {"reported": reported}}
    for number, reported in enumerate([{"v": 1}, {"v": 1}, {"v": "1"}, {}, {"v": 2}])
]


def test_groups_are_counted_and_what_has_no_value_is_a_group_of_its_own() -> None:
    found = query.parse("SELECT properties.reported.v AS v, COUNT() AS n FROM devices GROUP BY properties.reported.v")
    assert found.grouped(FLEET) == [{"v": 1, "n": 2}, {"v": "1", "n": 1}, {"n": 1}, {"v": 2, "n": 1}]


def test_all_are_one_group_without_group_by_even_if_there_are_none() -> None:
    text = "SELECT COUNT() AS n, SUM(tags.size) AS s, AVG(tags.size) AS a, MIN(tags.size) AS low FROM devices"
    assert query.parse(text).grouped(FLEET) == [{"n": 5, "s": 10, "a": 2.0, "low": 0}]
    assert query.parse(f"{text} WHERE tags.size > 9").grouped(FLEET) == [{"n": 0, "s": 0}]


def test_columns_are_named_after_their_alias_or_their_last_step() -> None:
    found = query.parse("SELECT TOP 3 deviceId, tags.size AS big, tags.none FROM devices")
    assert found.top == 3
    assert found.project(FLEET[4]) == {"deviceId": "d4", "big": 4}
