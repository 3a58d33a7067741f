"""A program for test_common: a small disk in FOLDER, filled and emptied again. Prints what it saw."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.stories import faults

if __name__ == "__main__":
    faults.private_mounts("tests.examples.stories.small_disk", sys.argv[1:])
    folder = Path(sys.argv[1])
    if refused := faults.small_disk(folder, 1_000_000):
        print(refused)  # noqa: T201 - this is a program
        sys.exit(0)
    ballast = faults.fill(folder, leave=4096)
    for _ in range(2):
        try:
            (folder / "more").write_bytes(bytes(100_000))
            print("room")  # noqa: T201
        except OSError:
            print("full")  # noqa: T201
        ballast.unlink(missing_ok=True)
