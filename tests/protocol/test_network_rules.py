"""Rules by network: what is read of them, and that one wrong rule makes none of them count."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol import twin
from modelsync_protocol.policy.network_rules import MAX_RULES, UNREADABLE, NetworkRule, parse_rules
from modelsync_protocol.twin import Window


def _policy(networks: object) -> twin.Desired:
    return twin.parse_desired({"modelsync": {"policy": {"networks": networks}}})


def test_every_key_is_understood() -> None:
    desired = _policy(
        [
            {"name": "depot", "ssid": "DEPOT", "metered": False, "neighbour": True, "rate_limit": 9},
            {
                "name": "lte",
                "interface": ["wwan*", "usb0"],
                "max_update_bytes": 0,
                "bytes_per_day": 1,
                "bytes_per_month": 2,
                "windows": ["22:00-06:00"],
            },
            {"name": "rest", "downloads": False},
        ]
    )
    assert desired.problems == {}
    assert desired.policy.networks == (
        NetworkRule("depot", ssid=("DEPOT",), metered=False, neighbour=True, rate_limit=9),
        NetworkRule(
            "lte",
            ("wwan*", "usb0"),
            max_update_bytes=0,
            bytes_per_day=1,
            bytes_per_month=2,
            windows=(Window(1320, 360),),
        ),
        NetworkRule("rest", downloads=False),
    )
    assert _policy(None).policy.networks == _policy([]).policy.networks == ()


@pytest.mark.parametrize(
    ("networks", "says"),
    [
        ("lte", "is not a list"),
        ({"lte": {}}, "is not a list"),
        ([{"name": f"r{n}"} for n in range(MAX_RULES + 1)], "is not a list of at most 16"),
        (["lte"], "rule 1 is not an object"),
        ([{"name": "a"}, {"interface": "eth0"}], "rule 2 needs a name"),
        ([{"name": "two words"}], "rule 1 needs a name"),
        ([{"name": "a"}, {"name": "a"}], "two rules are called a"),
        ([{"name": "a", "bssid": "x"}], "a has 'bssid', which is no key of a rule"),
        ([{"name": "a", "interface": "et h0"}], "a: interface is not a name such as"),
        ([{"name": "a", "interface": []}], "a: interface is not"),
        ([{"name": "a", "ssid": ["x", 1]}], "a: ssid is not"),
        ([{"name": "a", "ssid": "x" * 33}], "a: ssid is not"),
        ([{"name": "a", "metered": "auto"}], "a: metered is neither true nor false"),
        ([{"name": "a", "downloads": 0}], "a: downloads is neither"),
        ([{"name": "a", "max_update_bytes": -1}], "a: max_update_bytes = -1 is not a whole number"),
        ([{"name": "a", "bytes_per_day": True}], "a: bytes_per_day = True is not"),
        ([{"name": "a", "rate_limit": 0}], "a: rate_limit = 0 is not"),
        ([{"name": "a", "windows": ["25:00-26:00"]}], "a: '25:00-26:00' is not a time window"),
        ([{"name": "a", "windows": 5}], "a: windows is not a list"),
    ],
)
def test_one_wrong_rule_is_one_sentence_and_none_counts(networks: object, says: str) -> None:
    desired = _policy(networks)
    assert list(desired.problems) == ["policy/networks"] and says in desired.problems["policy/networks"]
    assert desired.policy.networks == (UNREADABLE,) and not UNREADABLE.downloads


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "ssid", "windows", "x"]), inner)
    ),
    max_leaves=12,
)


@given(_JSON)
def test_nonsense_is_never_more_than_a_sentence(networks: Any) -> None:
    desired = _policy(networks)
    assert bool(desired.problems) == (desired.policy.networks == (UNREADABLE,))
    try:
        assert parse_rules(networks) == desired.policy.networks
    except ValueError:
        assert desired.problems
