"""Draws drift against bytes, as SVG. Reads and writes nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelsync_server.publish.snapper import SnappedFile

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 800, 480, 90, 60, 50, 60


def curve(found: SnappedFile) -> str:
    """An SVG document: bytes from 0 to the exact update's across, drift by decades upwards, what was written filled."""
    drawn = [point for point in found.points if point.drift > 0]
    low = math.floor(math.log10(min(point.drift for point in drawn)))
    high = max(low + 1, math.ceil(math.log10(max(point.drift for point in drawn))))

    def across(size: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * size / found.exact_bytes

    def upward(drift: float) -> float:
        share = (math.log10(drift) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="28" font-size="16">drift in {found.measured}, as a share of the update\'s own</text>',
    ]
    for power in range(low, high + 1):
        y = upward(10.0**power)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{_LEFT - 8}" y="{y + 5:.1f}" font-size="13" text-anchor="end">{100 * 10.0**power:g} %</text>'
        )
    for quarter in range(5):
        size = found.exact_bytes * quarter / 4
        x, y = across(size), _HEIGHT - _BOTTOM
        lines.append(f'<path d="M{x:.1f} {_TOP}V{y}" stroke="#eee"/>')
        lines.append(f'<text x="{x:.1f}" y="{y + 20}" font-size="13" text-anchor="middle">{size:,.0f}</text>')
    places = [(across(point.bytes), upward(point.drift), point) for point in drawn]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
    lines.append(f'<path d="M{path}" fill="none" stroke="#4e79a7" stroke-width="2"/>')
    for x, y, point in places:
        fill = "#4e79a7" if point is found.chosen else "#fff"
        title = f"{point.bytes:,} bytes, {100 * point.drift:.3g} %"
        lines.append(
            f'<g><title>{title}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="#4e79a7"/></g>'
        )
    lines.append(
        f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 12}" font-size="13" text-anchor="middle">bytes of the update '
        f"(right end: exact)</text>"
    )
    return "\n".join([*lines, "</svg>", ""])
