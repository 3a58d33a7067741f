"""The benchmark believes nobody: cheats are caught, what is missing is named, and what was counted repeats."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from modelsync_bench import cuts, harness
from modelsync_bench.links import DIRECT, LINKS
from modelsync_bench.peers import Account, Job, Peer, Site
from modelsync_bench.peers.https_get import HttpsGet, HttpsGetResumed
from modelsync_bench.peers.modelsync import Modelsync
from modelsync_bench.processes import Used, server
from modelsync_bench.result import LinkProfile, Machine, Measurement, Request, Result, ResultError, load
from modelsync_bench.runner import Runner, Settings
from modelsync_bench.scenarios import Task
from modelsync_bench.static_origin import AccessLog

_DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "int8"
_LARGE = _DIGITS.parent / "float32"
LARGE_JOB = Job("large", (_LARGE / "v1" / "model.onnx", _LARGE / "v2" / "model.onnx"), 0)
JOB = Job("digits", (_DIGITS / "v1" / "model.onnx", _DIGITS / "v2" / "model.onnx"), 0)
TASK = Task("pairs", "digits", JOB, peers=frozenset({"https-get", "wrong", "modest", "absent", "later"}))


class Wrong(HttpsGet):
    """Fetches the new version and then gives back the old one."""

    name = "wrong"

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        return ["cp", str(old), str(new)]


class Modest(HttpsGet):
    """Says that it fetched ten bytes."""

    name = "modest"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return Account(10, 1)


class ModestWithoutLog(Modest):
    """Says so too, and no server's log contradicts it."""

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        folder = site.folder(self.name, job)
        command = [sys.executable, "-m", "http.server", "8000", "--bind", site.lab.server_host, "-d", str(folder)]
        with server(site.lab, command, site.scratch / "http.log", port=8000):
            yield AccessLog(site.scratch / "none")

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        host, port = site.lab.reach(8000)
        return [["curl", "-sS", "--fail", "-o", str(device / "new"), f"http://{host}:{port}/new"]]


class Boastful(HttpsGet):
    """Says that it fetched more than the line carried."""

    name = "boastful"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return Account(10_000_000, 1)


class Absent(HttpsGet):
    """Is not installed."""

    name = "absent"
    install = "apt install absent"

    def version(self) -> str | None:
        return None


def measured(
    peer: Peer, site: Site, *, job: Job = JOB, repeats: int = 1, link: LinkProfile = LINKS[DIRECT]
) -> Measurement:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed, with which most peers fetch: apt install curl")
    harness.published(peer, job, site)
    return harness.measure(peer, job, site, link, "pairs", "digits", repeats=repeats, seconds=60)


def test_a_wrong_result_is_caught(site: Site) -> None:
    with pytest.raises(harness.Cheated, match="wrong result"):
        measured(Wrong(), site)


@pytest.mark.parametrize("peer", [Modest(), ModestWithoutLog()], ids=["by the log", "by the line"])
def test_under_reported_bytes_are_caught(site: Site, peer: Peer) -> None:
    with pytest.raises(harness.Cheated, match="under-reported bytes: 10 claimed"):
        measured(peer, site)


def test_bytes_that_never_came_are_caught(site: Site) -> None:
    with pytest.raises(harness.Cheated, match="impossible bytes"):
        measured(Boastful(), site)


@pytest.mark.timeout(400)  # eight processes that import much, one after the other, on a machine that may be busy
@pytest.mark.parametrize(
    "peer", [HttpsGet(), pytest.param(Modelsync(), marks=pytest.mark.long)], ids=["get", "modelsync"]
)
def test_bytes_of_a_deterministic_method_repeat(site: Site, peer: Peer) -> None:
    one = measured(peer, site, job=LARGE_JOB, repeats=2)
    assert one.exact and one.deterministic and one.counter == "interface"
    assert one.wire_down is not None and one.payload_bytes is not None
    assert one.payload_bytes < one.wire_down < 1.25 * one.payload_bytes + harness.HANDSHAKE_BYTES
    assert one.spread is not None and one.spread < 0.01, one.totals


def test_a_missing_peer_and_a_cheat_are_named_in_the_result(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    known: dict[str, Peer] = {"absent": Absent(), "wrong": Wrong()}
    Runner(Result(Machine.here()), path, site, known, Settings(), lambda done, planned, text: None).run([TASK])
    result = load(path)
    absent, wrong = result.measurements
    assert absent.reason == "not installed: apt install absent" and not absent.exact
    assert [one.missing for one in result.peers] == ["not installed: apt install absent", None]
    assert wrong.reason is not None and wrong.reason.startswith("wrong result") and wrong.wire_down is None


def test_an_interrupted_run_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    known: dict[str, Peer] = {"https-get": HttpsGet(), "wrong": Wrong()}
    shown: list[str] = []

    def show(done: int, planned: int, text: str) -> None:
        shown.append(text)
        if len(shown) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(Result(Machine.here()), path, site, known, Settings(), show).run([TASK])
    first = load(path)
    assert [one.peer for one in first.measurements] == ["https-get"]
    shown = ["", ""]
    Runner(load(path), path, site, known, Settings(), show).run([TASK])
    assert shown[2:] == ["pairs · digits · wrong · direct"]
    assert [one.peer for one in load(path).measurements] == ["https-get", "wrong"]
    assert load(path).measurements[0] == first.measurements[0]


@pytest.mark.parametrize("scenario", [pytest.param(cuts.CUT_LINE, marks=pytest.mark.long), cuts.CUT_KILL])
def test_who_starts_anew_after_a_cut_pays_twice(site: Site, scenario: str) -> None:
    whole = measured(HttpsGet(), site, job=LARGE_JOB).wire_down
    assert whole is not None
    task = replace(TASK, scenario=scenario, job=LARGE_JOB)
    paid = {}
    for peer in (HttpsGet(), HttpsGetResumed()):
        harness.published(peer, LARGE_JOB, site)
        paid[peer.name] = cuts.measure(peer, task, site, whole, 60).wire_down or 0
    # After a kill the server repeats what was in flight until it learns that nobody is there: up to a window.
    assert 1.75 * whole < paid["https-get"]
    assert whole < paid["https-get-resumed"] < 1.6 * whole


def test_a_delayed_line_takes_its_round_trips(site: Site) -> None:
    one = measured(HttpsGet(), site, link=LinkProfile("far", 2_000_000, 2_000_000, 200, 0))
    # TCP, TLS and the request: three round trips at least, and 188 KB at 2 Mbit/s.
    assert one.wall_seconds is not None and one.wall_seconds > 3 * 0.2 + 188_095 * 8 / 2_000_000
    assert one.exact


def test_a_result_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    Result(Machine.here()).save(path)
    assert load(path).measurements == []
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ResultError, match="measure again"):
        load(path)
    path.write_text("[]")
    with pytest.raises(ResultError, match="not a result"):
        load(path)
