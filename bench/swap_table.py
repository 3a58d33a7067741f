"""The swap benchmark's results as lines of a table, and what they say about each target. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HEAD = (
    "| way | swaps | failed / 503 / wrong | p99 ms: steady → swap | p99.9 ms | longest ms "
    "| pointer → first answer ms, median / longest | MiB after 10 → all | MiB peak − steady | saturation /s |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
_MAX_P99, _MAX_P999 = 1.25, 2.0
_MAX_GROWTH = 1.05
_MAX_PEAK, _MAX_RESOURCE_MIB = 1.1, 10.0
_MAX_FIRST_MS = 150.0


def row(way: str, result: Mapping[str, Any]) -> str:
    """One line of the table."""
    steady, window, memory, first = (result[key] for key in ("steady", "window", "memory_mib", "first_answer_ms"))
    peak = f"{memory['peak_in_swap'] - memory['steady']:+.0f}" if memory["peak_in_swap"] else ""
    return (
        f"| {way} | {result['swaps']} "
        f"| {result['failed']} / {result['busy']} / {result['wrong_version']} of {result['requests']} "
        f"| {steady['p99']:.1f} → {window['p99']:.1f} (×{window['p99'] / steady['p99']:.2f}) "
        f"| {steady['p999']:.1f} → {window['p999']:.1f} (×{window['p999'] / steady['p999']:.2f}) | {window['max']:.0f} "
        f"| {first['p50']:.0f} / {first['max']:.0f} "
        f"| {memory['after_10']:.0f} → {memory['after_all']:.0f} | {peak} | {result['saturation']:.0f} |"
    )


def verdicts(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each target that was measured."""
    return [line for kind, ways in results.items() for line in _of(kind, ways)]


def _of(kind: str, ways: Mapping[str, Any]) -> Iterator[str]:
    ours, resource = ways.get("modelsync"), ways.get("modelsync, resource policy")
    if ours is not None:
        steady, window, memory, size = ours["steady"], ours["window"], ours["memory_mib"], ours["model_mib"]
        bad = ours["failed"] + ours["busy"] + ours["wrong_version"]
        yield _judge(f"{kind}: failed or wrong answers in {ours['swaps']} of {ours['asked']} swaps", bad, 0, "")
        yield _judge(f"{kind}: swaps whose new version never answered", ours["swaps"] - ours["swaps_seen"], 0, "")
        yield _judge(f"{kind}: p99 in swaps, of the steady one", window["p99"] / steady["p99"], _MAX_P99, "×")
        yield _judge(f"{kind}: p99.9 in swaps, of the steady one", window["p999"] / steady["p999"], _MAX_P999, "×")
        if memory["after_10"]:
            growth = memory["after_all"] / memory["after_10"]
            yield _judge(f"{kind}: memory after all swaps, of that after ten", growth, _MAX_GROWTH, "×")
        peak = memory["peak_in_swap"] - memory["steady"]
        yield _judge(f"{kind}: peak above steady, 1.1 × {size:.1f} MiB allowed", peak, _MAX_PEAK * size, "MiB")
        if kind == "cnn":
            yield _judge(
                "cnn: longest from pointer to first answer", ours["first_answer_ms"]["max"], _MAX_FIRST_MS, "ms"
            )
    if resource is not None:
        memory = resource["memory_mib"]
        peak = memory["peak_in_swap"] - memory["steady"]
        yield _judge(f"{kind}: peak above steady, resource policy", peak, _MAX_RESOURCE_MIB, "MiB")


def _judge(what: str, value: float, limit: float, unit: str) -> str:
    unit = f" {unit}" if unit else ""
    if value <= limit:
        return f"met: {what}: {value:.4g}{unit} (at most {limit:.4g})"
    return f"MISSED by {value - limit:.3g}{unit}: {what}: {value:.4g}{unit} (at most {limit:.4g})"
