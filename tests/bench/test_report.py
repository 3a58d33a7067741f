"""The report says first where modelsync loses, names what is missing, and follows from the result alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelsync_bench import fleet_costs, plots, report, report_tables
from modelsync_bench.fleet import Fleet
from modelsync_bench.idle_line import IdleLine, document
from modelsync_bench.result import LeftOut, LinkProfile, Machine, Measurement, PairInfo, PeerVersion, Result, load

DOCS = Path(__file__).parents[2] / "docs"
PLAN = (1000.0, 1100.0, 1200.0, 4000.0)


def _measurement(
    scenario: str, pair: str, peer: str, wire: int, link: str = "direct", seconds: float = 1.0
) -> Measurement:
    payload = wire - 800
    return Measurement(
        scenario,
        pair,
        peer,
        link,
        "interface",
        True,
        payload,
        300,
        wire - 300,
        2,
        seconds,
        2**25,
        0.5,
        True,
        (wire, wire),
    )


def _result() -> Result:
    result = Result(Machine("Linux", "a|b", 2, 2**34, "3.11", "0.1"))
    result.peers = [
        PeerVersion("modelsync", "modelsync-daemon 0.1.0", None, "pull", True),
        PeerVersion("patch", "patch 1.2 (x), Copyright", None, "a patch"),
        PeerVersion("absent", None, "not installed: apt install absent", "?"),
    ]
    result.links = [
        LinkProfile("direct", 20_000_000, 20_000_000, 0, 0),
        LinkProfile("lte", 10_000_000, 2_000_000, 60, 0),
    ]
    result.pairs = [PairInfo("pairs", "small", "file", 10, 10, 1, "a", "b", "a small one")]
    for pair, ours, theirs in (("small", 9000, 6000), ("big", 20_000, 90_000), ("tiny", 2000, 500)):
        result.put(_measurement("pairs", pair, "modelsync", ours))
        result.put(_measurement("pairs", pair, "patch", theirs))
    result.put(_measurement("pairs", "small", "modelsync", 9000, "lte", 2.0))
    result.put(_measurement("pairs", "small", "patch", 6000, "lte", 0.5))
    result.put(Measurement("pairs", "small", "absent", "direct", "interface", True, reason="not installed: …"))
    result.put(Measurement("pairs", "big", "broken", "direct", "interface", True, reason="it ended\nwith 1 | 2"))
    result.left_out = [LeftOut("pairs", "big", "*", "lte", "not among --link-pairs")]
    for held, ours, theirs in zip(("one", "two", "three"), (1800, 1900, 2000), (1500, 1600, 1700), strict=True):
        result.put(_measurement("fleet", f"{held}-behind", "modelsync", ours))
        result.put(_measurement("fleet", f"{held}-behind", "patch", theirs))
    result.put(_measurement("fleet", "nothing-installed", "modelsync", 4800))
    result.put(_measurement("fleet", "nothing-installed", "patch", 6000))
    idle = (
        IdleLine("sdk-defaults", 260, 60, 3655, 3480, "interface", "the SDK"),
        IdleLine("modelsyncd", 260, 1740, 4244, 86400, "interface", "the daemon"),
    )
    result.facts["idle"] = document(idle)
    lines = {line.name: line for line in idle}
    result.facts["fleet"] = fleet_costs.document(result, PLAN, lines, Fleet(devices=500), 25.0, (50_000, 10**6))
    return result


def test_losses_stand_first_the_worst_at_the_top() -> None:
    text = report.page(_result(), "benchmarks")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0] == "## Where modelsync loses"
    chapter = text.split(headings[0])[1].split(headings[1])[0]
    assert "in 5 of 7 cases" in chapter  # two pairs, and the fleet's three updates
    rows = [line for line in chapter.splitlines() if line.startswith(("| Updates", "| The fleet"))]
    assert [row.split("|")[2].strip() for row in rows][:2] == ["tiny", "small"]
    assert "| patch | 500 | 1,500 | 4.00× |" in rows[0]
    assert "big" not in "".join(rows)
    assert "**Time: in 1 of 8 cases**" in chapter


def test_a_case_without_a_peer_or_with_a_wrong_result_is_no_comparison() -> None:
    result = _result()
    result.measurements = [one for one in result.measurements if one.peer != "patch"]
    result.put(Measurement("pairs", "tiny", "patch", "direct", "interface", True, 1, 1, 1, exact=False, reason="wrong"))
    assert report_tables.bytes_lost(result) == ([], 0)
    assert "Nothing could be compared" in report.page(result, "benchmarks")


def test_missing_peers_failures_and_what_was_left_out_are_named() -> None:
    text = report.page(_result(), "benchmarks").split("## What is missing")[1].split("\n## ")[0]
    assert "**absent** is missing here; get it with: apt install absent." in text
    assert "No figures for pairs · big · broken · direct: it ended with 1 \\| 2" in text
    assert "Left out of pairs, all ways on lte: not among --link-pairs (big)." in text


def test_every_figure_of_the_fleet_says_whether_it_was_measured() -> None:
    text = report.page(_result(), "benchmarks").split("## What a fleet pays")[1].split("\n## ")[0]
    assert "| best peer (patch) | 1,500ᵐ | 1,600ᵐ | 1,700ᵐ | 6,000ᵐ |" in text
    assert "| modelsync (modelsync) | 1,800ᶜ |" in text
    assert "sdk-defaults | 260ᵐ | 1,440.0 | 3,655ᵐ |" in text
    assert "Missing:** naive image: not measured" in text
    assert "modelsync costs $0.01 more a month than patch" in text
    for assumption in fleet_costs.assumptions(Fleet(devices=500), 25.0, (50_000, 10**6)):
        assert f"| {assumption.name} | {assumption.value} | {assumption.reason} |" in text


def test_the_counter_the_machine_and_the_versions_are_given() -> None:
    text = report.page(_result(), "benchmarks")
    assert "(counter `interface`)" in text
    assert "| processor | a\\|b |" in text
    assert "| patch | patch 1.2 | no | a patch |" in text
    assert "differ by at most 0.00%" in text


def test_a_result_of_nearly_nothing_still_makes_a_report(tmp_path: Path) -> None:
    report.write(Result(Machine("s", "p", 1, 1, "3", "0")), tmp_path / "benchmarks.md")
    assert "Nothing could be compared" in (tmp_path / "benchmarks.md").read_text()
    assert not (tmp_path / "benchmarks").exists()


def test_a_plot_is_the_same_file_each_time(tmp_path: Path) -> None:
    rows = {"small": {"modelsync": 900.0, "patch": 600.0}, "big": {"modelsync": 20_000.0}}
    for name in ("one", "two"):
        plots.dots(rows, ["modelsync", "patch"], frozenset({"modelsync"}), "t", "l", tmp_path / name / "plot")
    for kind in ("svg", "png"):
        one, two = (tmp_path / name / f"plot.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), kind


def test_the_plots_are_bytes_times_and_the_fleet() -> None:
    made = report.plots(_result())
    assert list(made) == ["bytes", "times", "fleet"]
    assert made["bytes"][0]["small"] == {"modelsync": 9000, "patch": 6000}
    assert made["times"][0] == {"lte · small": {"modelsync": 2.0, "patch": 0.5}}


def test_the_committed_page_is_what_the_committed_result_makes() -> None:
    result = DOCS / "benchmarks" / "result.json"
    if not result.exists():
        pytest.fail("docs/benchmarks/result.json is not there: `make bench` and commit a result")
    text = report.page(load(result), "benchmarks")
    assert (DOCS / "benchmarks.md").read_text() == text, "docs/benchmarks.md is not of this result: `make bench-report`"
    for name in report.plots(load(result)):
        assert (DOCS / "benchmarks" / f"{name}.svg").exists()
