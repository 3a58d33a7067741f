"""Tables of measurements in Markdown, and where modelsync loses. Reads a result; measures and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from modelsync_bench.links import DIRECT
from modelsync_bench.result import Measurement, Result

OURS = "modelsync"
SCENARIOS = {
    "story": "The Azure ML story",
    "pairs": "Updates",
    "install": "First installs",
    "behind": "Three versions behind",
    "cut-line": "Cut at 90 % by the line",
    "cut-kill": "Cut at 90 % by a kill",
    "environment": "A Python environment with one package bumped",
    "fleet": "The fleet's model, by the version held",
}
"""Scenario → heading, in the report's order."""

Case = tuple[str, str, str]
"""Scenario, pair, link."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A case in which a peer needs less than one of ours: `least` and `peer` are the best peer's."""

    case: Case
    ours: str
    value: float
    peer: str
    least: float

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.value / self.least if self.least else float("inf")


def is_ours(peer: str) -> bool:
    """Whether it is a way of modelsync, not a peer of it."""
    return peer == OURS or peer.startswith(OURS + "-")


def usable(result: Result) -> list[Measurement]:
    """Those with figures and an exact result."""
    return [one for one in result.measurements if one.exact and one.reason is None and one.wire_bytes is not None]


def losses(
    found: Iterable[Measurement], value: Callable[[Measurement], float | None], keep: Callable[[Case], bool]
) -> tuple[list[Loss], int]:
    """Each loss, the worst ratio first, and how many cases could be compared."""
    cases: dict[Case, dict[str, float]] = {}
    for one in found:
        case, amount = (one.scenario, one.pair, one.link), value(one)
        if amount is not None and keep(case):
            cases.setdefault(case, {})[one.peer] = amount
    lost, compared = [], 0
    for case, amounts in cases.items():
        peers = {name: amount for name, amount in amounts.items() if not is_ours(name)}
        ours = {name: amount for name, amount in amounts.items() if is_ours(name)}
        if not peers or not ours:
            continue
        compared += len(ours)
        best = min(peers, key=lambda name: (peers[name], name))
        lost += [Loss(case, name, ours[name], best, peers[best]) for name in ours if ours[name] > peers[best]]
    return sorted(lost, key=lambda loss: (-loss.ratio, loss.case, loss.ours)), compared


def bytes_lost(result: Result) -> tuple[list[Loss], int]:
    """On the line, both directions, counted where nothing delays."""
    return losses(usable(result), lambda one: one.wire_bytes, lambda case: case[2] == DIRECT)


def time_lost(result: Result) -> tuple[list[Loss], int]:
    """Wall seconds, on every line."""
    return losses(usable(result), lambda one: one.wall_seconds, lambda case: not case[0].startswith("cut"))


def memory_lost(result: Result) -> tuple[list[Loss], int]:
    """Peak resident bytes of the receiving side."""
    return losses(usable(result), lambda one: one.peak_memory, lambda case: case[2] == DIRECT)


def cpu_lost(result: Result) -> tuple[list[Loss], int]:
    """CPU seconds of the receiving side; figures below 5 ms are none."""
    return losses(
        usable(result),
        lambda one: one.cpu_seconds if one.cpu_seconds and one.cpu_seconds >= 0.005 else None,
        lambda case: case[2] == DIRECT,
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; all but the first `left` columns stand right."""
    marks = ["---" if number < left else "---:" for number in range(len(heads))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, marks, *rows))


def columns(found: Sequence[Measurement]) -> list[str]:
    """Peers in the order of a table's columns: ours first, then by how many bytes they need in all, fewest first."""
    total: dict[str, list[int]] = {}
    for one in found:
        total.setdefault(one.peer, []).append(one.wire_bytes or 0)
    return sorted(total, key=lambda name: (not is_ours(name), sum(total[name]) / len(total[name]), name))


def matrix(result: Result, scenario: str) -> str:
    """Bytes on the line by pair and peer; the fewest in bold, what has no figure as a dash."""
    found = [one for one in usable(result) if one.scenario == scenario and one.link == DIRECT]
    if not found:
        return ""
    peers = columns(found)
    rows = []
    for pair in dict.fromkeys(one.pair for one in found):
        amounts = {one.peer: one.wire_bytes for one in found if one.pair == pair and one.wire_bytes is not None}
        least = min(amounts.values())
        cells = [f"{amounts[peer]:,}" if peer in amounts else "–" for peer in peers]
        rows.append([pair, *(f"**{c}**" if amounts.get(p) == least else c for p, c in zip(peers, cells, strict=True))])
    return table(["pair", *peers], rows)


def details(result: Result, scenario: str) -> str:
    """All figures of a scenario with few pairs, a row for each peer; the fewest bytes first."""
    found = [one for one in usable(result) if one.scenario == scenario and one.link == DIRECT]
    rows = []
    for pair in dict.fromkeys(one.pair for one in found):
        for one in sorted((m for m in found if m.pair == pair), key=lambda m: (m.wire_bytes or 0, m.peer)):
            payload = "–" if one.payload_bytes is None else f"{one.payload_bytes:,}"
            requests = "–" if one.requests is None else str(one.requests)
            memory = "–" if one.peak_memory is None else f"{one.peak_memory / 2**20:.0f}"
            cells = [one.peer, f"{one.wire_bytes:,}", payload, requests, number(one.wall_seconds), memory]
            rows.append([pair, *cells, number(one.cpu_seconds)])
    heads = ["pair", "way", "bytes on the line", "payload", "requests", "seconds", "peak MiB", "CPU s"]
    return table(heads, rows, 2) if rows else ""


def times(result: Result) -> str:
    """Seconds by pair and line, for each peer."""
    found = [one for one in usable(result) if one.link != DIRECT]
    if not found:
        return ""
    peers = columns(found)
    rows = []
    for scenario, pair, link in dict.fromkeys((one.scenario, one.pair, one.link) for one in found):
        amounts = {
            m.peer: m.wall_seconds
            for m in found
            if (m.scenario, m.pair, m.link) == (scenario, pair, link) and m.wall_seconds is not None
        }
        rows.append([f"{scenario}: {pair}", link, *(number(amounts.get(peer)) for peer in peers)])
    return table(["pair", "line", *peers], rows, 2)


def number(value: float | None) -> str:
    """Three significant digits at least; a dash for what is not known."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
