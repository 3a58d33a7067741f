"""Rollouts as text for a terminal: plans, statuses, lists. No logic, no I/O."""

from __future__ import annotations

from typing import Any

from modelsync_server.rollout import reading
from modelsync_server.rollout.planning import RolloutPlan
from modelsync_server.rollout.reading import Overview, RolloutStatus


def plan(found: RolloutPlan) -> str:
    """The plan, ring by ring."""
    lines = [f"{found.model} {found.version} to {found.devices:,} devices in {len(found.rings)} rings ({found.target})"]
    for each in found.rings:
        cost = _money(found.money(each.bytes), found.currency)
        lines.append(
            f"  {each.ring.name}: {each.devices:,} devices, {each.reachable:,} can take it, "
            f"{each.bytes:,} bytes{cost}, at worst {each.worst:,} a device"
        )
        lines.append(f"    who: {each.ring.where}")
        for group in each.groups:
            held = f"version {group.version}" if group.version else ("another version" if group.digest else "nothing")
            note = "  (no update object)" if group.missing else ""
            lines.append(f"    {group.devices:>8,} hold {held}: {group.kind}, {group.bytes:,} bytes each{note}")
        reasons = (
            (each.silent, "silent"),
            (each.on_hold, "on hold"),
            (each.quarantined, "quarantined it"),
            (each.unsupported, "can't run it"),
        )
        if left := ", ".join(f"{number:,} {why}" for number, why in reasons if number):
            lines.append(f"    not now: {left}")
        for why, number in each.lacks.items():
            lines.append(f"    {number:>8,} can't run it: {printable(why)}")
        if each.shared:
            lines.append(f"    {each.shared:,} more are in earlier rings and count there")
    total = _money(found.money(found.bytes), found.currency)
    lines.append(f"  together {found.bytes:,} bytes{total}")
    return "\n".join([*lines, *(f"  hint: {line}" for line in found.advice)])


def status(found: RolloutStatus) -> str:
    """A rollout with its rings."""
    made = found.record
    lines = [f"{made.name} by {printable(made.by)}: {made.state.value}; {printable(found.waits)}"]
    for ring in found.rings:
        spent = "" if ring.spent is None else f", spent {ring.spent:,}"
        unable = f", {ring.counts.unsupported:,} can't run it" if ring.counts.unsupported else ""
        lines.append(
            f"  {ring.name:<16} {ring.state:<9} {ring.counts.asked:>8,} asked of {ring.record.devices:,}, "
            f"{ring.counts.active:,} active (gate {ring.record.gate.needed(ring.reachable):,}), "
            f"{ring.counts.failed:,} failed{unable}; predicted {ring.predicted:,} bytes{spent}"
        )
        if ring.trouble:
            lines.append(f"    {printable(ring.trouble)}")
    return "\n".join(lines)


def overview(found: Overview) -> str:
    """All rollouts and wishes."""
    lines = [status(each) for each in found.rollouts]
    lines += [f"{model}: {printable(why)}" for model, why in found.troubles.items()]
    lines += [
        f"{wish.model} {wish.version} ({wish.rollout}): finished {printable(wish.finished)}; wanted by {wish.where}"
        for wish in found.wishes
    ]
    return "\n".join(lines) or "no rollout was ever started on this hub."


def overview_document(found: Overview) -> dict[str, Any]:
    """The list as JSON."""
    return {
        "rollouts": [reading.document(each) for each in found.rollouts],
        "wishes": [
            {
                "model": wish.model,
                "version": wish.version,
                "rollout": wish.rollout,
                "target": str(wish.target),
                "where": wish.where,
                "finished": wish.finished,
                "by": wish.by,
            }
            for wish in found.wishes
        ],
        "damaged": dict(found.damaged),
        "orphans": dict(found.orphans),
        "configurations": found.configurations,
    }


def printable(text: str) -> str:
    """Text from the hub without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _money(amount: float | None, currency: str) -> str:
    return "" if amount is None else f" ({amount:,.2f} {currency})"
