"""The report's chapter on money: a fleet's month, the idle connection included. Reads what `fleet` left in a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelsync_bench import fleet_costs, idle_line
from modelsync_bench.fleet import HELD
from modelsync_bench.report_tables import table
from modelsync_bench.result import Result

MARKS = {"measured": "ᵐ", "computed": "ᶜ", "assumed": "ᵃ"}
_MONEY = {"updates": "update_dollars", "idle connection": "idle_dollars", "the month": "month_dollars"}
LEGEND = (
    "ᵐ measured · ᶜ computed from measured bytes · ᵃ assumed (the list below) · "
    "ˢ simulated: measured bytes, assumed fleet"
)


def chapter(result: Result) -> str:
    """The chapter; a sentence that says what is missing if the result has none."""
    fleet = document(result)
    if fleet is None:
        return "Not in this result: `modelsync-bench fleet` adds it.\n"
    idle = idle_line.read(result.facts.get("idle"))
    parts = [f"{LEGEND}\n"]
    parts += [f"- **Missing:** {one}" for one in fleet["missing"]]
    if fleet["ways"]:
        parts += ["", "### Bytes of one update", _wire(fleet), _plan_check(result, fleet)]
    parts += ["", "### An idle device", _idle(idle, fleet["price_per_gb"])]
    if fleet["ways"]:
        parts += ["### The month", _sentences(fleet), _month(fleet["ways"], fleet), _budget(fleet)]
    parts += ["### Assumptions", _assumptions(fleet["assumptions"])]
    return "\n".join(parts)


def document(result: Result) -> Mapping[str, Any] | None:
    """The result's fleet, if it has one of this schema."""
    found = result.facts.get("fleet")
    return found if isinstance(found, dict) and found.get("schema") == fleet_costs.SCHEMA else None


def plot_rows(fleet: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Way → what → dollars a month, those above nothing."""
    return {
        f"{way['name']} ({way['peer']})": {what: way[key] for what, key in _MONEY.items() if way[key] > 0}
        for way in fleet["ways"]
        if way["month_dollars"] > 0
    }


def _wire(fleet: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{way['name']} ({way['peer']})",
            *(f"{wire:,.0f}{MARKS[basis]}" for wire, basis in zip(way["wire"], way["basis"], strict=True)),
            f"{way['mean_update_bytes']:,.0f}ᶜ",
            f"${way['mean_update_bytes'] / 1e9 * fleet['price_per_gb']:.6f}ᶜ",
        ]
        for way in fleet["ways"]
    ]
    notes = "".join(f"- {way['name']}: {way['why']}.\n" for way in fleet["ways"])
    heads = ["way (measured with)", *HELD, "mean over the mix", "costs"]
    text = "On the line, both directions, undisturbed, by the version that the device holds."
    return f"{text}\n\n{table(heads, rows)}\n{notes}"


def _plan_check(result: Result, fleet: Mapping[str, Any]) -> str:
    """What the plan said beside what came over the line."""
    rows = []
    for held, planned in fleet["plan_bytes"].items():
        one = result.find(("fleet", held.replace(" ", "-"), "modelsync", "direct"))
        if one is not None and one.payload_bytes is not None:
            rows.append([held, f"{planned:,.0f}ᶜ", f"{one.payload_bytes:,}ᵐ", f"{one.wire_bytes:,}ᵐ"])
    if not rows:
        return ""
    heads = ["held", "plan's bytes", "payload that a daemon fetched", "on the line, without a twin"]
    text = "modelsync's bytes are those of the daemon's own plan (`modelsync_protocol.plan`) for a store with all"
    return f"{text} versions. Held against the line:\n\n{table(heads, rows)}"


def _idle(idle: Mapping[str, idle_line.IdleLine], price: float) -> str:
    if not idle:
        return "Not measured: `modelsync-bench idle` does it. Idle connections cost nothing in the tables below.\n"
    rows = []
    for line in idle.values():
        count, money = fleet_costs.month_of_idle(line, price)
        pings, renewals = fleet_costs.exchanges_a_day(line)
        rows.append(
            [
                line.name,
                f"{line.keep_alive_bytes:,}ᵐ",
                f"{pings:,.1f}",
                f"{line.renewal_bytes:,}ᵐ",
                f"{renewals:,.1f}",
                f"{line.day_bytes:,.0f}ᶜ",
                f"{count / 1e6:,.2f}ᶜ",
                f"${money:,.4f}ᶜ",
            ]
        )
    heads = ["connection", "a keep-alive", "a day", "a renewal", "a day", "bytes a day", "MB in 30 days", "costs"]
    notes = "".join(f"- {line.name}: {line.about} ({line.counter} counter).\n" for line in idle.values())
    return f"{table(heads, rows)}\n{notes}"


def _month(ways: Sequence[Mapping[str, Any]], fleet: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{way['name']} ({way['peer']})",
            f"${way['release_dollars']:,.2f}ˢ",
            f"${way['update_dollars']:,.2f}ˢ",
            f"${way['idle_dollars']:,.2f}{'ᶜ' if fleet['idle_basis'] == 'measured' else ''}",
            f"**${way['month_dollars']:,.2f}ˢ**",
            f"{way['outcome']['cuts']:,}ˢ",
            f"{way['outcome']['resent_bytes'] / 1e6:,.1f}ˢ",
            f"{way['outcome']['unfinished']:,}ˢ",
        ]
        for way in ways
    ]
    heads = ["way", "one release", "all releases", "idle", "the month", "cuts", "resent MB", "not done"]
    setting = fleet["fleet"]
    intro = (
        f"{setting['devices']:,} devices, {setting['days']} days, {len(setting['releases'])} releases, "
        f"${fleet['price_per_gb']:g} a GB, seed {setting['seed']}."
    )
    return f"{intro}\n\n{table(heads, rows)}"


def _sentences(fleet: Mapping[str, Any]) -> str:
    """What a reader should not overlook."""
    ways = {way["name"]: way for way in fleet["ways"]}
    lines = []
    ours, best = ways.get("modelsync"), ways.get("best peer")
    if ours and best:
        lost = ours["update_dollars"] > best["update_dollars"]
        difference = abs(ours["update_dollars"] - best["update_dollars"])
        lines.append(
            f"Updates alone: modelsync costs ${difference:,.2f} {'more' if lost else 'less'} a month than "
            + best["peer"]
            + (
                ", which fetches a bare patch: no signed metadata, no word from a twin, and nothing that reports."
                if lost
                else "."
            )
        )
        if best["update_dollars"] and best["idle_dollars"] and ours["idle_dollars"]:
            tuned = best["update_dollars"] + ours["idle_dollars"]
            lines.append(
                f"With the SDK's defaults the idle connection costs "
                f"{best['idle_dollars'] / best['update_dollars']:,.0f} times the best peer's updates. With "
                f"modelsyncd's keep-alive and token the best peer's month would be ${tuned:,.2f}, "
                f"against modelsync's ${ours['month_dollars']:,.2f}."
            )
    return "".join(f"- {line}\n" for line in lines)


def _budget(fleet: Mapping[str, Any]) -> str:
    budget = fleet["budget"]
    if not budget["ways"]:
        return ""
    rows = []
    for way in budget["ways"]:
        outcome = way["outcome"]
        day = next((str(n) for n, share in enumerate(outcome["done_share"], 1) if share >= 0.99), "–")
        rows.append(
            [
                way["name"],
                f"{outcome['deferred']:,}ˢ",
                f"{day}ˢ",
                f"{outcome['unfinished']:,}ˢ",
                f"${way['month_dollars']:,.2f}ˢ",
            ]
        )
    heads = ["way", "device-days that waited", "day on which 99 % have it", "not done at the end", "the month"]
    text = (
        f"### With a budget\n{budget['bytes_per_day']:,.0f} bytes a dayᵃ and {budget['bytes_per_month']:,.0f} a monthᵃ,"
        " as the daemon's ledger applies it: an update begins only if what it will fetch fits into what both have left;"
        " idle traffic counts. Peers know no budget."
    )
    return f"{text}\n\n{table(heads, rows)}"


def _assumptions(found: Sequence[Mapping[str, str]]) -> str:
    return table(["assumed", "value", "why"], [[one["name"], one["value"], one["reason"]] for one in found], 3)
