"""Where inputs are kept: corpus/<target>/ reaches what is reachable, regressions/<target>/ once broke something."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
REGRESSIONS = Path(__file__).parent / "regressions"


def inputs(folder: Path, name: str) -> list[bytes]:
    """The kept inputs of a target, always in the same order."""
    place = folder / name
    return [path.read_bytes() for path in sorted(place.iterdir())] if place.is_dir() else []
