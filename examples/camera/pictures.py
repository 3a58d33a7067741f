"""Pictures of parts on a belt, drawn: what the camera would see, and what the model is trained on. No files here."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIZE = 64
"""Pixels of a side, of a frame and of the model's input."""

KINDS = ("bolt", "gasket", "nut", "spring", "washer")
FIRST_KINDS = ("bolt", "nut", "spring", "washer")
"""What version 1 knows. Labels are in alphabetical order, so `gasket` moves all that come after it."""

Picture = npt.NDArray[np.uint8]

_SCALE = 3
"""Drawn so many times larger, and then made smaller: smooth edges."""


def picture(kind: str, rng: np.random.Generator) -> Picture:
    """RGB (SIZE, SIZE, 3): a part of `kind`, lying anywhere, turned anyhow, in some light."""
    side = SIZE * _SCALE
    belt = tuple(int(value) for value in rng.integers(40, 90) + rng.integers(-8, 9, 3))
    image = Image.new("RGB", (side, side), belt)
    draw = ImageDraw.Draw(image)
    for x in range(0, side, side // 4):
        draw.line((x, 0, x, side), fill=tuple(value + 8 for value in belt), width=_SCALE)
    part = Image.new("L", (side, side))
    _SHAPES[kind](ImageDraw.Draw(part), side / 2, side * float(rng.uniform(0.26, 0.36)))
    moved = tuple(int(value) for value in rng.integers(-side // 10, side // 10 + 1, 2))
    part = part.rotate(float(rng.uniform(0, 360)), translate=(moved[0], moved[1]))
    light = int(rng.integers(-30, 31))
    image.paste(tuple(max(0, min(255, value + light)) for value in _COLOURS[kind]), (0, 0), part)
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
    seen = small * rng.uniform(0.85, 1.15) + rng.normal(0, 5, small.shape)
    return np.clip(seen, 0, 255).astype(np.uint8)


def pictures(kinds: tuple[str, ...], count: int, seed: int) -> tuple[Picture, npt.NDArray[np.int64]]:
    """`count` pictures (count, SIZE, SIZE, 3), and of each the place of its kind in `kinds`."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, len(kinds), count)
    return np.stack([picture(kinds[number], rng) for number in wanted]), wanted


def _polygon(sides: int, middle: float, radius: float) -> list[tuple[float, float]]:
    turns = [2 * math.pi * number / sides for number in range(sides)]
    return [(middle + radius * math.cos(turn), middle + radius * math.sin(turn)) for turn in turns]


def _hole(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=0)


def _bolt(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    draw.rectangle((middle - radius, middle - radius * 0.45, middle - radius * 0.5, middle + radius * 0.45), fill=255)
    draw.rectangle((middle - radius * 0.5, middle - radius * 0.2, middle + radius, middle + radius * 0.2), fill=255)


def _nut(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    draw.polygon(_polygon(6, middle, radius * 0.9), fill=255)
    _hole(draw, middle, radius * 0.42)


def _washer(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=255)
    _hole(draw, middle, radius * 0.6)


def _spring(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    points = [
        (middle - radius + 2 * radius * step / 60, middle + 0.4 * radius * math.sin(step * math.pi / 6))
        for step in range(61)
    ]
    draw.line(points, fill=255, width=int(radius * 0.16), joint="curve")


def _gasket(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    box = (middle - radius * 0.85, middle - radius * 0.85, middle + radius * 0.85, middle + radius * 0.85)
    draw.rounded_rectangle(box, radius * 0.25, fill=255)
    _hole(draw, middle, radius * 0.5)


_SHAPES = {"bolt": _bolt, "gasket": _gasket, "nut": _nut, "spring": _spring, "washer": _washer}
_COLOURS = {
    "bolt": (176, 176, 184), "gasket": (128, 72, 60), "nut": (190, 166, 110), "spring": (184, 190, 196),
    "washer": (200, 200, 206),
}  # fmt: skip
