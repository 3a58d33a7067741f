"""Memory of a family of processes, whatever else runs on the machine. Linux.

Proportional set sizes share a file's pages with strangers that have it mapped too: a server "grows" when some other
Python ends. Here a file's pages count once for the family; anonymous pages are shared by forks only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+) *(.*)$")


def resident(pids: Iterable[int]) -> int:
    """Bytes resident of these processes together; OSError if one of them has ended."""
    anonymous, files = 0, dict[tuple[str, str], int]()
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                anonymous += _bytes(line)
        for file, size in _file_pages(Path(f"/proc/{pid}/smaps").read_text()).items():
            files[file] = max(files.get(file, 0), size)
    return anonymous + sum(files.values())


def _file_pages(smaps: str) -> dict[tuple[str, str], int]:
    """Bytes of each mapped file, by device and inode, that are in memory as the file has them."""
    found = dict[tuple[str, str], int]()
    file = ("", "0")
    for line in smaps.splitlines():
        if mapping := _MAPPING.match(line):
            file = (mapping[1], mapping[2])
        elif file[1] != "0" and line.startswith(("Rss:", "Anonymous:")):
            found[file] = found.get(file, 0) + (_bytes(line) if line.startswith("Rss:") else -_bytes(line))
    return found


def _bytes(line: str) -> int:
    return int(line.split()[1]) * 1024
