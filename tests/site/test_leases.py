"""The table of who fetches what: one has the lease, it ends with its holder's silence; nobody can fill the table."""

from __future__ import annotations

import pytest

from modelsync_daemon.site.leases import Leases
from modelsync_protocol import site
from modelsync_protocol.errors import FormatError
from modelsync_protocol.site import Question, Verb

KEY = "0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ask(leases: Leases, asker: str, verb: Verb = Verb.WANT, *excluded: str, key: str = KEY) -> str | None:
    return leases.take(Question(verb, key, 1, frozenset(excluded)), asker)


def test_one_fetches_and_the_others_are_sent_to_it() -> None:
    leases = Leases(Clock())
    assert ask(leases, "10.0.0.1:1") is None
    assert [ask(leases, f"10.0.0.{number}:1") for number in range(2, 9)] == ["10.0.0.1:1"] * 7
    assert ask(leases, "10.0.0.1:1") is None, "who has the lease goes on"


def test_a_lease_ends_when_its_holder_is_silent() -> None:
    clock = Clock()
    leases = Leases(clock)
    ask(leases, "10.0.0.1:1")
    clock.now += site.LEASE_SECONDS - 1
    ask(leases, "10.0.0.1:1", Verb.HOLD)
    clock.now += site.LEASE_SECONDS - 1
    assert ask(leases, "10.0.0.2:1") == "10.0.0.1:1"
    clock.now += 2
    assert ask(leases, "10.0.0.2:1") is None


def test_who_failed_for_one_is_still_there_for_others() -> None:
    leases = Leases(Clock())
    ask(leases, "10.0.0.1:1")
    assert ask(leases, "10.0.0.2:1", Verb.WANT, "10.0.0.1:1") is None
    assert ask(leases, "10.0.0.3:1", Verb.WANT, "10.0.0.1:1") == "10.0.0.2:1"
    assert ask(leases, "10.0.0.4:1") == "10.0.0.1:1"


def test_a_lease_that_is_given_back_is_the_next_ones() -> None:
    leases = Leases(Clock())
    ask(leases, "10.0.0.1:1")
    ask(leases, "10.0.0.1:1", Verb.GONE)
    assert ask(leases, "10.0.0.2:1") is None


def test_those_who_have_it_share_the_others() -> None:
    leases = Leases(Clock())
    for number in range(1, 4):
        ask(leases, f"10.0.0.{number}:1", Verb.DONE)
    assert {ask(leases, f"10.0.1.{number}:1") for number in range(60)} == {f"10.0.0.{n}:1" for n in range(1, 4)}


def test_one_address_pushes_out_nobody_elses_rows() -> None:
    leases = Leases(Clock())
    ask(leases, "10.0.0.1:1")
    for number in range(20_000):
        ask(leases, "10.0.0.66:1", Verb.DONE, key=f"{number + 1:016x}")
    assert len(leases) < 1000
    assert ask(leases, "10.0.0.2:1") == "10.0.0.1:1"


def test_everybody_ranks_alike_and_objects_spread() -> None:
    members = [f"10.0.0.{number}:8444" for number in range(12)]
    orders = [site.ranked(f"{key:016x}", members) for key in range(600)]
    assert all(site.ranked(f"{key:016x}", reversed(members)) == order for key, order in enumerate(orders))
    firsts = [order[0] for order in orders]
    assert all(20 < firsts.count(member) < 90 for member in members)


@pytest.mark.parametrize(
    "query",
    [
        {}, {"s": "want", "k": KEY}, {"s": "steal", "k": KEY, "p": "1"}, {"s": "want", "k": KEY + "0", "p": "1"},
        {"s": "want", "k": KEY, "p": "0"}, {"s": "want", "k": KEY, "p": "70000"}, {"s": "want", "k": KEY, "p": "²"},
        {"s": "want", "k": KEY, "p": "1", "x": "nobody"}, {"s": "want", "k": KEY, "p": "1", "x": "10.0.0.1:1," * 9},
    ],
)  # fmt: skip
def test_a_wrong_question_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        site.parse_question(query)


@pytest.mark.parametrize(
    "answer", [b"", b"fetch ", b"from", b"from x:1", b"from 10.0.0.1", b"from 10.0.0.1:1" + b"0" * 60]
)
def test_a_wrong_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(FormatError):
        site.parse_answer(answer)


def test_what_changes_is_called_by_its_origin_too_and_by_no_secret() -> None:
    one = site.target_of("bundles/m", "https://a.example/store?sig=secret")
    assert (
        one
        == site.target_of("bundles/m", "https://A.example/store/?sig=other")
        != site.target_of("bundles/m", "https://b")
    )
    assert site.target_of("packs/" + "0" * 64, "https://a.example") == "packs/" + "0" * 64
    assert site.is_target(one) and not site.is_target("bundles/m") and not site.is_target("packs/../trust")
