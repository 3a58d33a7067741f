"""Draws docs/fleet/rings.svg: rings, and what a gate says of four of them. The sentences are the gate's own.

`make pages` runs it.
"""

from __future__ import annotations

from html import escape

from modelsync_server.rollout.gate import Counts, Gate, Judgement, Verdict, judge
from tests.support.figures import ROOT

PICTURE = ROOT / "docs" / "fleet" / "rings.svg"
GATE = Gate(active=0.8, failures=0.02, soak=1800.0, wait=7 * 86400.0)
_HOUR = 3600.0
CASES = (
    # name, devices, what they report, hours since it was opened, hours since enough were active
    ("canary", 50, Counts(50, 49, 0, 1, 0), 3.0, 1.0),
    ("north", 400, Counts(400, 210, 190, 0, 0), 2.0, None),
    ("south", 400, Counts(400, 180, 208, 9, 3), 2.0, None),
    ("ships", 60, Counts(60, 20, 40, 0, 0), 7 * 24.0, None),
)
_FOLLOWS = {
    Verdict.ADVANCE: ("#dff0d8", "#2f7d32", "the next ring is asked"),
    Verdict.WAIT: ("#e8eef7", "#3a5f93", "nothing happens; no later ring is asked"),
    Verdict.BREAK: ("#f8dede", "#a32020", "this ring gets back what it had; no later ring is asked"),
    Verdict.EXPIRE: ("#fbf0d5", "#8a6100", "it stops; `modelsync rollout resume` gives it the time again"),
}
_WIDTH, _ROW, _BAR, _LEFT = 760, 96, 300, 16


def judged() -> list[Judgement]:
    """What the gate says of each case."""
    return [
        judge(GATE, counts, devices, 0.0, None if ripe is None else (opened - ripe) * _HOUR, opened * _HOUR)
        for _, devices, counts, opened, ripe in CASES
    ]


def picture() -> str:
    """The picture as SVG."""
    height = _ROW * len(CASES) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, ((name, devices, counts, _, _), judgement) in enumerate(zip(CASES, judged(), strict=True)):
        parts += _ring(8 + number * _ROW, name, devices, counts, judgement)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ring(top: int, name: str, devices: int, counts: Counts, judgement: Judgement) -> list[str]:
    fill, dark, follows = _FOLLOWS[judgement.verdict]
    good = counts.active * _BAR // devices
    bad = max(4, counts.failed * _BAR // devices) if counts.failed else 0
    needed = GATE.needed(devices) * _BAR // devices
    bar = top + 34
    return [
        f'<rect x="1" y="{top}" width="{_WIDTH - 2}" height="{_ROW - 10}" rx="6" fill="{fill}" stroke="{dark}"/>',
        _text(_LEFT, top + 22, f"ring {name}: {devices} devices", "#000000", ' font-weight="bold"'),
        f'<rect x="{_LEFT}" y="{bar}" width="{_BAR}" height="16" fill="#ffffff" stroke="#555555"/>',
        f'<rect x="{_LEFT}" y="{bar}" width="{good}" height="16" fill="#2f7d32"/>',
        f'<rect x="{_LEFT + good}" y="{bar}" width="{bad}" height="16" fill="#a32020"/>',
        f'<path d="M{_LEFT + needed} {bar - 5} V{bar + 21}" stroke="#000000" stroke-width="2"/>',
        _text(
            _LEFT, bar + 36, f"{counts.active} active, {counts.failed} failed, {counts.waiting} on their way", "#000000"
        ),
        _text(_LEFT + _BAR + 24, top + 22, judgement.verdict.value, dark, ' font-weight="bold"'),
        _text(_LEFT + _BAR + 24, top + 47, judgement.why, "#000000"),
        _text(_LEFT + _BAR + 24, top + 70, f"→ {follows}", "#000000"),
    ]


def _text(x: int, y: int, text: str, colour: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}"{style}>{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
