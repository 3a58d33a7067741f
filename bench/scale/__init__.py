"""How cost grows with size, bases, files and versions: `make bench-scale`, or `python -m bench.scale`.

A measure is a module of this room with `measure(scale=…, scratch=…) -> dict`, both keywords optional:

- `scale` is "quick" (seconds; a test's), "default" (a few minutes on two cores) or "full" (10 GB);
- `scratch` is an empty folder of its own, which is removed afterwards;
- what it gives is JSON: `{"values": {name: number or bool}, "curves": {name: [[x, y], …]}, "notes": [sentence, …]}`.
  It leaves out what it did not measure. The names that are held against targets stand in `targets.py`.

Each measure runs in a process of its own, one after the other, so that none takes memory or time from another; one that
is missing or fails is said and counts as missed. `models.py` makes inputs from a seed and looks at the disk first,
`cost.py` takes time, processor time and memory of a command with all its children; `page.py` writes the result into
docs/performance.md. A new measure: its module, its name in `MEASURES`, its names in a row of `targets.py`.
"""

MEASURES = ("speed", "memory", "core", "engine", "many")
"""Modules of this room, in the order in which they run."""
