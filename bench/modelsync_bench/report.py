"""The report: one Markdown page and its plots, made from a result alone; the same result gives the same files."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from modelsync_bench import report_fleet, report_tables
from modelsync_bench.links import DIRECT
from modelsync_bench.report_tables import Loss, is_ours, number, table
from modelsync_bench.result import Result

_COUNTERS = {
    "interface": "the counters of a network namespace's interface, offloads off: headers of IP and TCP, and "
    "acknowledgements, are in it",
    "relay": "a counting relay: TCP payload with TLS; IP and TCP headers are **not** in it",
}
_WIDTH = 130
_MATRIX = ("pairs", "install", "fleet")
"""Scenarios of many pairs, whose tables have a column for each way; the others have a row."""


def write(result: Result, page_path: Path) -> None:
    """Write the page, and its plots into a folder beside it that has the page's name."""
    page_path.parent.mkdir(parents=True, exist_ok=True)
    # One order for all plots, so that a way has the same mark in each.
    order = sorted(report_tables.columns(report_tables.usable(result)), key=lambda name: (not is_ours(name), name))
    for name, (rows, title, label, unit) in plots(result).items():
        from modelsync_bench.plots import dots

        if name == "fleet":
            ways, ours = ["updates", "idle connection", "the month"], frozenset({"the month"})
        else:
            ways, ours = order, frozenset(filter(is_ours, order))
        path = page_path.with_suffix("") / name
        dots(rows, ways, ours, title, label, path, unit=unit, written=name == "fleet")
    page_path.write_text(page(result, page_path.stem))


def plots(result: Result) -> dict[str, tuple[dict[str, dict[str, float]], str, str, str]]:
    """File name → rows, title, axis label, unit: those that the result has figures for."""
    found = report_tables.usable(result)
    size: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for one in found:
        if one.scenario in ("story", "pairs") and one.link == DIRECT and one.wire_bytes:
            name = one.pair if one.scenario == "pairs" else f"story: {one.pair}"
            size.setdefault(name, {})[one.peer] = one.wire_bytes
        if one.wall_seconds and one.link != DIRECT:
            row = f"{one.link} · {one.pair}" + ("" if one.scenario == "pairs" else f" ({one.scenario})")
            seconds.setdefault(row, {})[one.peer] = one.wall_seconds
    made: dict[str, tuple[dict[str, dict[str, float]], str, str, str]] = {}
    if size:
        label = "bytes on the line, both directions, TLS included (logarithmic)"
        made["bytes"] = (size, "What an update costs, by pair and way", label, "bytes")
    if seconds:
        label = "seconds from the start of the device's commands to the version in place (logarithmic)"
        made["times"] = (seconds, "Time to active, by line", label, "seconds")
    fleet = report_fleet.document(result)
    if fleet and (rows := report_fleet.plot_rows(fleet)):
        devices = fleet["fleet"]["devices"]
        label = f"US dollars a month for {devices:,} devices at ${fleet['price_per_gb']:g} a GB (logarithmic)"
        made["fleet"] = (rows, "What a fleet's month costs", label, "dollars")
    return made


def page(result: Result, plots_folder: str) -> str:
    """The page's text. `plots_folder` is where its plots lie, as seen from it."""
    made = plots(result)

    def plot(name: str, text: str) -> str:
        return f"\n![{text}]({plots_folder}/{name}.svg)\n" if name in made else ""

    parts = [
        "# What an update costs, measured\n",
        "<!-- Written by `make bench-report` from the result beside it; do not edit. -->",
        _intro(result),
        "## Where modelsync loses\n",
        _losses(result),
        "## What is missing\n",
        _missing(result),
        "## Bytes by pair and way\n",
        plot("bytes", "Bytes on the line by pair and way, logarithmic"),
        *(_scenario(result, name) for name in report_tables.SCENARIOS),
        "## Time to active\n",
        plot("times", "Seconds by line and way, logarithmic"),
        report_tables.times(result) or "No limited line was measured in this result.\n",
        "## What a fleet pays\n",
        plot("fleet", "Dollars a month by way, logarithmic"),
        report_fleet.chapter(result),
        "## The machine and the ways\n",
        _machine(result),
    ]
    return _tidy("\n".join(part for part in parts if part))


def _intro(result: Result) -> str:
    counters = sorted({one.counter for one in result.measurements if one.exact and one.counter != "none"})
    but = f" but for {', '.join(plain)}, which costs some 4 KB less a connection" if (plain := _plain(result)) else ""
    lines = [
        f"Real tools on real model pairs, TLS on for all{but}. Unless a number is marked otherwise it is measured.\n",
        *(f"Bytes were counted by {_COUNTERS[counter]} (counter `{counter}`).\n" for counter in counters),
        "`make bench-full` measures anew; `make bench-report` writes this page and its plots from "
        "[the committed result](benchmarks/result.json).\n",
    ]
    facts = result.facts.get("counter")
    if isinstance(facts, dict) and facts.get("why"):
        lines.insert(2, f"Why no interface was counted: {facts['why']}\n")
    return "\n".join(lines)


def _plain(result: Result) -> list[str]:
    """Ways over the line that know no TLS."""
    on_line = {one.peer for one in result.measurements if one.wire_down is not None}
    return sorted(one.name for one in result.peers if one.name in on_line and not one.encrypted)


def _losses(result: Result) -> str:
    parts, plain = [], _plain(result)
    lost, compared = report_tables.bytes_lost(result)
    if not compared:
        return "Nothing could be compared: this result has no case with figures of both modelsync and a peer.\n"
    parts.append(
        f"**Bytes on the line: in {len(lost)} of {compared} cases** a peer needs fewer. What peers fetch is not "
        "signed; modelsync's bytes include TUF metadata that proves version and freshness.\n"
    )
    if lost:
        rows = [
            [
                report_tables.SCENARIOS.get(one.case[0], one.case[0]),
                one.case[1],
                one.ours,
                f"{one.value:,.0f}",
                f"{one.peer} (no TLS)" if one.peer in plain else one.peer,
                f"{one.least:,.0f}",
                f"{one.value - one.least:,.0f}",
                f"{one.ratio:.2f}×",
            ]
            for one in lost
        ]
        heads = ["scenario", "pair", "ours", "bytes", "best peer", "bytes", "more by", "ratio"]
        parts.append(table(heads, rows, 3))
    for what, (worse, of), unit in (
        ("Time", report_tables.time_lost(result), "s"),
        ("Peak memory of the receiving side", report_tables.memory_lost(result), "MiB"),
        ("CPU time of the receiving side", report_tables.cpu_lost(result), "s"),
    ):
        if of:
            parts.append(_summary(what, worse, of, unit))
    return "\n".join(parts)


def _summary(what: str, lost: list[Loss], compared: int, unit: str) -> str:
    head = f"**{what}: in {len(lost)} of {compared} cases** a peer needs less."
    if not lost:
        return head + "\n"

    def shown(value: float) -> str:
        return number(value / 2**20 if unit == "MiB" else value)

    rows = []
    for link in dict.fromkeys(one.case[2] for one in lost):
        there = [one for one in lost if one.case[2] == link]
        for title, one in (("worst", there[0]), ("middle", there[len(there) // 2])):
            case = f"{one.case[0]}: {one.case[1]}"
            ours, best = f"{one.ours}: {shown(one.value)}", f"{one.peer}: {shown(one.least)}"
            rows.append([link, str(len(there)), title, case, ours, best])
            if len(there) == 1:
                break
    return f"{head}\n\n{table(['line', 'lost', '', 'case', f'ours, {unit}', f'best peer, {unit}'], rows, 4)}"


def _missing(result: Result) -> str:
    lines = [
        f"- **{one.name}** is missing here; get it with: {_cell((one.missing or '').removeprefix('not installed: '))}."
        for one in result.peers
        if one.version is None
    ]
    if not lines:
        lines = ["All peers that the bench knows were installed."]
    failed = [
        one for one in result.measurements if one.reason is not None and not one.reason.startswith("not installed")
    ]
    lines += [f"- No figures for {' · '.join(one.key)}: {_cell(one.reason or '')}" for one in failed]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for gap in result.left_out:
        key = (gap.scenario, gap.peer, f"on {gap.link}: {gap.reason}")
        if "predicted" in gap.reason:
            key = (gap.scenario, "*", f"on {gap.link}: more seconds are predicted from their bytes than --bound allows")
        grouped.setdefault(key, []).append(gap.pair if gap.peer == "*" or key[1] != "*" else f"{gap.pair} {gap.peer}")
    for (scenario, peer, reason), pairs in grouped.items():
        who = "all ways" if peer == "*" and "predicted" not in reason else "some ways" if peer == "*" else peer
        names = ", ".join(dict.fromkeys(pairs)) if len(pairs) <= 6 else f"{len(pairs)} measurements"
        lines.append(f"- Left out of {scenario}, {who} {_cell(reason)} ({names}).")
    return "\n".join(lines) + "\n"


def _scenario(result: Result, name: str) -> str:
    body = report_tables.matrix(result, name) if name in _MATRIX else report_tables.details(result, name)
    if not body:
        return ""
    abouts = dict.fromkeys(one.about for one in result.pairs if one.scenario == name and one.about)
    about = "".join(f"{text[0].upper()}{text[1:]}.\n" for text in abouts)
    unit = "Bytes on the line; the fewest in bold.\n" if name in _MATRIX else ""
    return f"### {report_tables.SCENARIOS[name]}\n{about}{unit}\n{body}"


def _machine(result: Result) -> str:
    machine = result.machine
    rows: list[list[Any]] = [
        ["system", _cell(machine.system)],
        ["processor", _cell(machine.processor)],
        ["cores", str(machine.cores)],
        ["memory", f"{machine.memory_bytes / 2**30:.1f} GiB"],
        ["Python", machine.python],
        ["modelsync", machine.modelsync],
    ]
    links = [
        [
            one.name,
            "–" if one.down_bits is None else f"{one.down_bits / 1000:,.0f}",
            "–" if one.up_bits is None else f"{one.up_bits / 1000:,.0f}",
            str(one.round_trip_ms),
            f"{one.lost_per_mille / 10:g}",
        ]
        for one in result.links
    ]
    peers = [
        [one.name, _version(one.version), "yes" if one.signed else "no", _cell(one.method)] for one in result.peers
    ]
    spread = [one.spread for one in result.measurements if one.deterministic and one.spread is not None]
    repeated = (
        f"Repeats of deterministic ways differ by at most {max(spread):.2%} in bytes ({len(spread)} measurements).\n"
        if spread
        else "Nothing was measured twice in this result.\n"
    )
    return "\n".join(
        [
            table(["", "here"], rows, 2),
            table(["line", "down, kbit/s", "up, kbit/s", "round trip, ms", "lost, %"], links),
            table(["way", "version", "signed", "how"], peers, 4),
            repeated,
        ]
    )


def _cell(text: str) -> str:
    """Text that fits into a table's cell or a list's item."""
    return " ".join(text.split()).replace("|", "\\|").strip("* ")


def _version(text: str | None) -> str:
    """A program's name and version out of what it says of itself."""
    if text is None:
        return "missing"
    found = re.match(r".*?\d+(?:\.\d+)+[\w.+-]*", text)
    return _cell(found[0] if found else text)


def _wrapped(line: str) -> str:
    if len(line) <= _WIDTH or line.startswith(("|", "#", "!", "<")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(
        line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def _tidy(text: str) -> str:
    """Prose within the documents' width, one blank line at most, and one newline at the end."""
    text = "\n".join(_wrapped(line) for line in text.split("\n"))
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip("\n") + "\n"
