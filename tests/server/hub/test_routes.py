"""edgeHub's route syntax: what is understood, what it matches, and what is refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol.errors import UsageError
from modelsync_server.hub.routes import Message, Sink, parse, parse_all, read_properties, write_properties
from modelsync_server.iothub.identity import Identity

UP = Sink()


def message(module: str | None, output: str | None = None, **properties: str) -> Message:
    return Message(Identity("pi", module), ({} if output is None else {"$.on": output}) | properties, b"{}")


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("/*", ["leaf", "a", "a/x", "a/y", "b/x"]),
        ("/messages/*", ["leaf", "a", "a/x", "a/y", "b/x"]),
        ("/messages/modules/*", ["a", "a/x", "a/y", "b/x"]),
        ("/messages/modules/a/*", ["a", "a/x", "a/y"]),
        ("/messages/modules/a/outputs/*", ["a/x", "a/y"]),
        ("/messages/modules/a/outputs/x", ["a/x"]),
    ],
)
def test_a_source_takes_what_the_documents_table_says(source: str, taken: list[str]) -> None:
    messages = {
        "leaf": message(None),
        "a": message("a"),
        "a/x": message("a", "x"),
        "a/y": message("a", "y"),
        "b/x": message("b", "x"),
    }
    route = parse(f"FROM {source} INTO $upstream")
    assert [name for name, sent in messages.items() if route.takes(sent)] == taken


@pytest.mark.parametrize(
    ("text", "sink"),
    [
        ("FROM /* INTO $upstream", UP),
        ("from /messages/* into $UPSTREAM", UP),
        ('FROM /* INTO BrokeredEndpoint("/modules/b/inputs/in1")', Sink("b", "in1")),
        ("FROM /*\n INTO BrokeredEndpoint( '/modules/b-2/inputs/in.1' )", Sink("b-2", "in.1")),
    ],
)
def test_sinks_are_the_cloud_or_a_modules_input(text: str, sink: Sink) -> None:
    assert parse(text).sink == sink


def test_conditions_compare_application_properties() -> None:
    route = parse("FROM /* WHERE alert = 'true' AND kind != \"test\" INTO $upstream")
    assert route.takes(message("a", alert="true"))
    assert route.takes(message("a", alert="true", kind="real"))
    assert not route.takes(message("a", alert="true", kind="test"))
    assert not route.takes(message("a"))
    assert parse("FROM /* WHERE true INTO $upstream").takes(message("a"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM /messages/* TO $upstream", "is not of the form"),
        ("FROM /messages/modules/a INTO $upstream", "source '/messages/modules/a' is none of"),
        ("FROM /messages/modules/*/outputs/x INTO $upstream", "is none of"),
        ("FROM /twinChangeNotifications INTO $upstream", "is none of"),
        ("FROM /* INTO BrokeredEndpoint(/modules/b/inputs/x)", "neither \\$upstream nor BrokeredEndpoint"),
        ("FROM /* INTO $downstream", "neither"),
        ("FROM /* WHERE $body.t > 5 INTO $upstream", "does not understand the condition '\\$body.t > 5'"),
        ("FROM /* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream", "does not understand"),
        ("FROM /* WHERE a = 'b' OR c = 'd' INTO $upstream", "does not understand"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_part_that_is_wrong(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text)
    with pytest.raises(UsageError, match=f"route 'r': .*{words}"):
        parse_all({"routes": {"r": text}})


def test_both_forms_of_a_manifests_routes_are_read() -> None:
    text = "FROM /* INTO $upstream"
    assert parse_all({"routes": {"old": text, "new": {"route": text, "priority": 0}}}) == dict.fromkeys(
        ("old", "new"), parse(text)
    )
    assert parse_all({"schemaVersion": "1.1"}) is None
    wrong: list[Any] = [[], {"r": 1}, {"r": {}}]
    for routes in wrong:
        with pytest.raises(UsageError):
            parse_all({"routes": routes})


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_properties_survive_their_topic(properties: dict[str, str]) -> None:
    bag = write_properties(properties)
    assert "/" not in bag and read_properties(bag + "/") == properties
