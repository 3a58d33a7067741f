"""Memory of processes, from the kernel's account; of emulated ones only what the program itself has, not the emulator.

qemu-user lays out the memory of a 32-bit program in the lowest 4 GiB of its own address space, page by page, and keeps
its own code, heap and translations above. Which pages below are resident is what the program touched, as on a device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_GUEST_END = 1 << 32
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB. `resident` counts every page in full, `proportional` (Pss) shares pages among who has them mapped."""

    resident: int
    proportional: int


def memory(pid: int, emulated: bool = False) -> Memory:
    """A process' memory now. AssertionError: it is said to be emulated, and no emulator's layout was found."""
    sums = {(part, key): 0 for part in (False, True) for key in ("Rss", "Pss")}
    below = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            below = int(mapping[2], 16) <= _GUEST_END
            continue
        key, _, value = line.partition(":")
        if (below, key) in sums:
            sums[below, key] += int(value.split()[0])
    guest, rest = sums[True, "Rss"], sums[False, "Rss"]
    if not emulated:
        return Memory(guest + rest, sums[True, "Pss"] + sums[False, "Pss"])
    assert guest and rest, f"{pid} has {guest} KiB below 4 GiB and {rest} above: not as qemu-user lays a program out"
    return Memory(guest, sums[True, "Pss"])
