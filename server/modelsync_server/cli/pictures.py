"""The command line's pictures, as SVG: where an update's bytes went, and drift against bytes. Reads and writes nothing.

A treemap's layout is that of Bruls, Huizing and van Wijk, *Squarified Treemaps* (2000).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelsync_server.publish.explain import Explanation, Part
    from modelsync_server.rounding.snapper import SnappedFile

_WIDTH, _HEIGHT, _TOP = 1200, 720, 76
_MOST = 400
"""Parts that are drawn; cheaper ones share one rectangle."""

_CURVE_WIDTH, _CURVE_HEIGHT, _LEFT, _RIGHT, _CURVE_TOP, _BOTTOM = 800, 480, 90, 60, 50, 60

_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#edc948", "#9c755f")
_HEADER, _OTHER = "#8a8a8a", "#bab0ac"

Box = tuple[float, float, float, float]
"""x, y, width, height."""


def treemap(found: Explanation) -> str:
    """An SVG document: a rectangle for each part, its area its bytes, its colour the encoding that it paid most to."""
    colours = dict(zip(found.encodings, _COLOURS, strict=False))
    cells = [(part.bytes, _label(part), colours.get(_main(part), _OTHER)) for part in found.parts if part.bytes]
    small = sum(size for size, _, _ in cells[_MOST:])
    cells = [*cells[:_MOST], (found.header_bytes, "header", _HEADER)]
    if small:
        cells.append((small, "all other parts", _OTHER))
    cells.sort(key=lambda cell: -cell[0])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + _TOP}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT + _TOP}" fill="#fff"/>',
        f'<text x="8" y="28" font-size="20">{_text(found.name)} {found.old} → {found.new}: '
        f"{found.bytes:,} bytes</text>",
        *_legend(found, colours),
    ]
    boxes = squarified([size for size, _, _ in cells], (0, _TOP, _WIDTH, _HEIGHT))
    for number, ((size, label, colour), box) in enumerate(zip(cells, boxes, strict=True)):
        lines += _cell(number, size, label, colour, box)
    return "\n".join([*lines, "</svg>", ""])


def squarified(sizes: Sequence[int], box: Box) -> list[Box]:
    """Boxes of areas proportional to `sizes` (positive, descending) that tile `box`, each as square as may be."""
    x, y, width, height = box
    result: list[Box] = []
    left, total = 0, float(sum(sizes))
    while left < len(sizes):
        scale = width * height / total
        side = min(width, height)
        count, best = 1, _worst(sizes[left : left + 1], scale, side)
        while left + count < len(sizes):
            ratio = _worst(sizes[left : left + count + 1], scale, side)
            if ratio > best:
                break
            count, best = count + 1, ratio
        row = sizes[left : left + count]
        depth = sum(row) * scale / side
        position = 0.0
        for size in row:
            length = size * scale / depth
            across = width >= height
            result.append((x, y + position, depth, length) if across else (x + position, y, length, depth))
            position += length
        if width >= height:
            x, width = x + depth, max(width - depth, 1e-9)
        else:
            y, height = y + depth, max(height - depth, 1e-9)
        total -= sum(row)
        left += count
    return result


def _worst(row: Sequence[int], scale: float, side: float) -> float:
    """The worst ratio of sides in a row laid along `side`."""
    total = sum(row) * scale
    return max(side * side * row[0] * scale / total**2, total**2 / (side * side * row[-1] * scale))


def _legend(found: Explanation, colours: dict[str, str]) -> Iterator[str]:
    x = 8
    shown = [(name, cost, colours.get(name, _OTHER)) for name, cost in found.encodings.items() if cost]
    for name, cost, colour in [*shown, ("header", found.header_bytes, _HEADER)]:
        label = f"{name}: {cost:,}"
        yield f'<rect x="{x}" y="44" width="16" height="16" fill="{colour}"/>'
        yield f'<text x="{x + 22}" y="57" font-size="14">{_text(label)}</text>'
        x += 46 + 8 * len(label)


def _cell(number: int, size: int, label: str, colour: str, box: Box) -> Iterator[str]:
    x, y, width, height = box
    place = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
    yield f'<g><title>{_text(label)}: {size:,} bytes</title><rect {place} fill="{colour}" stroke="#fff"/>'
    if width > 40 and height > 18:
        yield f'<clipPath id="c{number}"><rect {place}/></clipPath>'
        yield f'<g clip-path="url(#c{number})" font-size="12" fill="#fff">'
        yield f'<text x="{x + 4:.2f}" y="{y + 14:.2f}">{_text(label)}</text>'
        if height > 34:
            yield f'<text x="{x + 4:.2f}" y="{y + 29:.2f}">{size:,}</text>'
        yield "</g>"
    yield "</g>"


def _label(part: Part) -> str:
    return part.tensor or part.path


def _main(part: Part) -> str:
    return max(part.encodings.items(), key=lambda item: item[1])[0]


def _text(words: str) -> str:
    """Words for SVG: what XML forbids is shown as a mark."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in words))


def curve(found: SnappedFile) -> str:
    """An SVG document: bytes from 0 to the exact update's across, drift by decades upwards, what was written filled."""
    drawn = [point for point in found.points if 0 < point.drift < math.inf]
    drifts = [point.drift for point in drawn] or [1.0]
    low = math.floor(math.log10(min(drifts)))
    high = max(low + 1, math.ceil(math.log10(max(drifts))))

    def across(size: float) -> float:
        return _LEFT + (_CURVE_WIDTH - _LEFT - _RIGHT) * size / found.exact_bytes

    def upward(drift: float) -> float:
        share = (math.log10(drift) - low) / (high - low)
        return _CURVE_HEIGHT - _BOTTOM - (_CURVE_HEIGHT - _CURVE_TOP - _BOTTOM) * share

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_CURVE_WIDTH} {_CURVE_HEIGHT}" '
        'font-family="sans-serif">',
        f'<rect width="{_CURVE_WIDTH}" height="{_CURVE_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="28" font-size="16">drift in {found.measured}, as a share of the update\'s own</text>',
    ]
    for power in range(low, high + 1):
        y = upward(10.0**power)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{_CURVE_WIDTH - _RIGHT}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{_LEFT - 8}" y="{y + 5:.1f}" font-size="13" text-anchor="end">{100 * 10.0**power:g} %</text>'
        )
    for quarter in range(5):
        size = found.exact_bytes * quarter / 4
        x, y = across(size), _CURVE_HEIGHT - _BOTTOM
        lines.append(f'<path d="M{x:.1f} {_CURVE_TOP}V{y}" stroke="#eee"/>')
        lines.append(f'<text x="{x:.1f}" y="{y + 20}" font-size="13" text-anchor="middle">{size:,.0f}</text>')
    places = [(across(point.bytes), upward(point.drift), point) for point in drawn]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
    if drawn:
        lines.append(f'<path d="M{path}" fill="none" stroke="#4e79a7" stroke-width="2"/>')
    for x, y, point in places:
        fill = "#4e79a7" if point is found.chosen else "#fff"
        title = f"{point.bytes:,} bytes, {100 * point.drift:.3g} %"
        lines.append(
            f'<g><title>{title}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="#4e79a7"/></g>'
        )
    lines.append(
        f'<text x="{_CURVE_WIDTH // 2}" y="{_CURVE_HEIGHT - 12}" font-size="13" text-anchor="middle">bytes '
        f"of the update (right end: exact)</text>"
    )
    return "\n".join([*lines, "</svg>", ""])
