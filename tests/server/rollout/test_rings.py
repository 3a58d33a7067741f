"""Rings as people write them, and the buckets behind percentages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.query import parse_condition
from modelsync_server.rollout.gate import Gate
from modelsync_server.rollout.rings import BUCKETS, Ring, bucket, list_tag, parse_options, read_file

GATE = Gate()


def test_a_bucket_never_changes_and_all_are_used_alike() -> None:
    assert [bucket(device) for device in ("pi", "car-0001", "")] == [5222, 5899, 8894]
    shares = Counter(bucket(f"car-{number}") * 10 // BUCKETS for number in range(10_000))
    assert set(shares) == set(range(10))
    assert max(shares.values()) - min(shares.values()) < 200


def test_conditions_percentages_and_lists_become_rings_in_order(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a\n\n b \n")
    rings = parse_options(["canary:tags.ring='canary'", f"list:@{tmp_path / 'ids'}", "rest:10%, 50 %,100%"], GATE)
    assert [(ring.name, ring.where) for ring in rings] == [
        ("canary", "tags.ring='canary'"),
        ("list", "deviceId IN ['a', 'b']"),
        ("rest-10", "tags.modelsync.bucket >= 0 AND tags.modelsync.bucket < 1000"),
        ("rest-50", "tags.modelsync.bucket >= 1000 AND tags.modelsync.bucket < 5000"),
        ("rest-100", "*"),
    ]
    for ring in rings[:-1]:
        parse_condition(ring.where)
    assert [ring.needs_buckets for ring in rings] == [False, False, True, True, False]


def test_percentages_hold_each_device_once() -> None:
    rings = parse_options(["a:10%,30%", "all:*"], GATE)
    tests = [parse_condition(ring.where) for ring in rings[:2]]
    for number in range(0, BUCKETS, 50):
        held = [test({"tags": {"modelsync": {"bucket": number}}}) for test in tests]
        assert held == [number < 1000, 1000 <= number < 3000]
    assert [test({"tags": {}}) for test in tests] == [None, None]


def listed(folder: Path, ids: list[str]) -> tuple[Ring, ...]:
    (folder / "ids").write_text("\n".join(ids))
    return parse_options([f"long:@{folder / 'ids'}"], GATE)


def test_a_long_list_becomes_a_tag_that_names_its_content(tmp_path: Path) -> None:
    ids = [f"car-{number}" for number in range(500)]
    (ring,) = listed(tmp_path, ids)
    assert ring.devices == tuple(ids)
    assert ring.where == f"tags.modelsync.lists.long = '{list_tag(ring)}'"
    assert list_tag(listed(tmp_path, ids[1:])[0]) != list_tag(ring)


TOML = """
[gate]
active = "50%"
soak = "1h"
[[ring]]
name = "canary"
where = "tags.ring = 'canary'"
gate = { active = 3, failures = "0%" }
[[ring]]
name = "north"
where = "tags.site = 'north' OR tags.site = 'west'"
percent = [5, 50]
[[ring]]
name = "all"
"""


def test_a_file_holds_rings_with_gates_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rings.toml"
    path.write_text(TOML)
    rings = read_file(path, GATE)
    assert [ring.name for ring in rings] == ["canary", "north-5", "north-50", "all"]
    assert (rings[0].gate.active, rings[0].gate.failures, rings[0].gate.soak) == (3, 0.0, 3600.0)
    assert rings[1].gate.active == 0.5
    assert rings[1].where.startswith("(tags.site = 'north' OR tags.site = 'west') AND tags.modelsync.bucket >= 0")
    json_path = tmp_path / "rings.json"
    json_path.write_text('{"ring": [{"name": "a", "devices": ["x"]}, {"name": "b", "percent": [100]}]}')
    assert [ring.where for ring in read_file(json_path, GATE)] == ["deviceId IN ['x']", "*"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["canary"],
        ["canary:"],
        ["Big Name:*"],
        ["a:tags.x ="],
        ["a:*", "b:tags.x = 1"],
        ["a:tags.x=1", "a:tags.x=2"],
        ["a:50%,10%"],
        ["a:0%,10%"],
        ["a:101%"],
        ["a:properties.reported.modelsync.models.m.version = 1"],
        ["a:NOT is_defined(configurations.[[x]])"],
        ["a:connectionState = 'Connected'"],
        ["a:@/none/such"],
        ["a:tags.x = '" + "y" * 3000 + "'"],
        [f"r{number}:tags.x = {number}" for number in range(21)],
    ],
)
def test_wrong_rings_are_refused_with_a_sentence(options: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_options(options, GATE)


def test_a_tag_whose_value_looks_like_a_property_is_none() -> None:
    assert parse_options(["a:tags.kind = 'properties'"], GATE)[0].where == "tags.kind = 'properties'"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[[ring]]\nname = 5",
        "[[ring]]\nname='a'\nwhere=5",
        "[[ring]]\nname='a'\nspeed=1",
        "[[ring]]\nname='a'\ndevices='x'",
        "[[ring]]\nname='a'\ndevices=['x y']",
        "[[ring]]\nname='a'\ndevices=[]",
        "[[ring]]\nname='a'\ndevices=['x']\npercent=[5]",
        "[[ring]]\nname='a'\npercent=5",
        "[[ring]]\nname='a'\npercent=[true]",
        "[gate]\nactive=0\n[[ring]]\nname='a'",
    ],
)
def test_a_wrong_file_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rings.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_file(path, GATE)
