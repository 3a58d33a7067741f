"""The query language as far as the local hub understands it, and a clear no to the rest."""

from __future__ import annotations

import pytest

from modelsync_server.hub import query
from modelsync_server.iothub.errors import HubError

TWIN = {
    "deviceId": "pi",
    "status": "enabled",
    "tags": {"ring": 2, "site": "Köln AND more", "x-y": True},
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
        "SELECT deviceId FROM devices",
        "SELECT * FROM jobs",
        "SELECT * FROM devices WHERE",
        "SELECT * FROM devices WHERE tags.a",
        "SELECT * FROM devices WHERE tags.a = 1 OR tags.b = 2",
        "SELECT * FROM devices WHERE tags.a = 1 AND",
        "SELECT * FROM devices WHERE tags.a = 1 tags.b = 2",
        "SELECT * FROM devices WHERE tags.a = b",
        "SELECT * FROM devices WHERE " + "a.b = 1 AND " * 1000,
    ],
)
def test_what_is_not_understood_is_refused_with_400(text: str) -> None:
    with pytest.raises(HubError) as caught:
        query.parse(text)
    assert caught.value.status == 400
