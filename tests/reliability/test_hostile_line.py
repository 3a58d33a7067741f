"""Whatever line or origin do, the device ends with a verified version, says what happened and wastes little."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelsync_protocol.caps import KIB
from tests.reliability.line_faults import FAULTS, FLIGHT, NOTHING, Fault, redirects
from tests.reliability.lines import Line, Outcome
from tests.support.certificates import Authority
from tests.support.figures import record
from tests.support.hostile_origin import End, HostileOrigin, Reply

WAYS = redirects("", "")
"""The faults of a TLS origin, for their names; the other origins' addresses are known when they run."""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A store and a device, made once."""
    return asyncio.run(Line.open(tmp_path_factory.mktemp("line")))


@pytest.fixture
async def elsewhere(line: Line, tmp_path: Path) -> AsyncIterator[tuple[Authority, str, str]]:
    """An authority, and two other honest origins: over TLS and without."""
    authority, store = Authority(tmp_path / "tls"), line.shop.path
    async with HostileOrigin(store, context=authority.server()) as other, HostileOrigin(store) as plain:
        yield authority, other.url, plain.url


def note(fault: Fault, outcome: Outcome) -> None:
    """Keep what was seen for docs/reliability.md."""
    said = outcome.said[-1] if outcome.said else "nothing"
    record(
        "network",
        fault.name,
        device_says=said.replace("127.0.0.1", "origin"),
        requests=outcome.requests,
        wasted_bytes=max(0, outcome.wasted),
        at_most=fault.waste,
        meanwhile_serves=outcome.end,
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_hostile_answer_ends_in_a_verified_version(fault: Fault, line: Line) -> None:
    outcome = await line.trial(fault)
    outcome.check(fault)
    note(fault, outcome)


@pytest.mark.parametrize("number", range(len(WAYS)), ids=[fault.name for fault in WAYS])
async def test_a_hostile_tls_origin_gets_no_further(
    number: int, line: Line, elsewhere: tuple[Authority, str, str]
) -> None:
    authority, other, plain = elsewhere
    fault = redirects(other, plain)[number]
    outcome = await line.trial(fault, authority.server(), authority.path)
    outcome.check(fault)
    note(fault, outcome)


@pytest.mark.parametrize("wrong", ["expired", "not yet valid", "other name", "other authority"])
async def test_a_wrong_certificate_is_refused_before_anything_is_asked(wrong: str, line: Line, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    issuer = Authority(tmp_path / "other", "another") if wrong == "other authority" else authority
    days = {"expired": (-3.0, -1.0), "not yet valid": (1.0, 3.0)}.get(wrong, (-1.0, 1.0))
    context = issuer.server("127.0.0.2" if wrong == "other name" else "127.0.0.1", days=days)
    says = {"expired": "expired", "not yet valid": "not yet valid", "other name": "mismatch"}.get(wrong, "issuer|self")
    fault = Fault(f"certificate: {wrong}", lambda reply: None, f"not trusted .*({says})", FLIGHT, "old")
    outcome = await line.trial(fault, context, authority.path, authority.server())
    outcome.check(fault)
    assert len(outcome.replies) == outcome.later, "the origin was asked for something"
    note(fault, outcome)


def cut_at(offset: int) -> Fault:
    """The answer with the bundle and the small update in it ends after `offset` bytes of headers and body."""

    def inject(reply: Reply) -> None:
        reply.steps = [reply.raw()[:offset], End.CLOSE]

    # A kept connection that ends within the headers may have been idle for too long: aiohttp asks again at once.
    return Fault(f"cut after {offset} bytes", inject, f"tried again|{NOTHING}", 2 * KIB, path="bundles/")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A version that differs by a few bytes: its update has a few hundred."""
    old = random.Random(3).randbytes(4 * KIB)
    new = old[:1000] + b"changed" + old[1007:]
    return asyncio.run(Line.open(tmp_path_factory.mktemp("small"), old, new))


async def _length(small: Line) -> int:
    """Bytes of that honest answer, headers included."""
    outcome = await small.trial(Fault("none", lambda reply: None, NOTHING, 0))
    return next(len(reply.raw()) for reply in outcome.replies if reply.path.startswith("bundles/"))


async def _cuts(small: Line, offsets: list[int], row: str) -> None:
    most = 0
    for offset in offsets:
        outcome = await small.trial(cut_at(offset))
        outcome.check(cut_at(offset))
        most = max(most, outcome.wasted)
    record(
        "network",
        f"{row} ({len(offsets)} trials)",
        device_says="the download of … broke (it ended early). It is tried again.",
        requests=4,
        wasted_bytes=most,
        at_most=2 * KIB,
        meanwhile_serves="new",
    )


async def test_an_answer_that_is_cut_at_sampled_offsets_is_gone_on_with(small: Line) -> None:
    length = await _length(small)
    await _cuts(small, [0, 1, 9, 17, 60, length // 2, length - 20, length - 1], "parcel cut at sampled offsets")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_an_answer_that_is_cut_at_every_offset_is_gone_on_with(small: Line) -> None:
    length = await _length(small)
    await _cuts(small, list(range(length)), "parcel cut at every offset of headers and body")
