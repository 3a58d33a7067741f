"""What `--effort` costs in bytes and spares in processor time, over a corpus of model pairs.

python -m bench.efforts DIR [PAIR ...]
DIR has one folder a pair with old.* and new.*. For each level: bytes of the update from old to new (the smallest object
of any version of the format), bytes of the packs of new, and processor seconds of both with one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelsync_server.encode.encoder import Source
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.packer import pack
from modelsync_server.publish.tasks import updates
from modelsync_server.tensors.effort import Effort

_NO_INSTALL = 1 << 60
"""Bytes of a first install that no update is larger than."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Bytes of an update and of packs, and processor seconds."""

    update: int
    packs: int
    seconds: float


def measure(old: Path, new: Path, effort: Effort) -> Spent:
    """Encode one pair at one level."""
    with snapshot(old) as before, snapshot(new) as after, ThreadPoolExecutor(1) as pool:
        base = Source(before.manifest, before.stream)
        target = Source(after.manifest, after.stream)
        begin = time.process_time()
        made = updates(base, target, _NO_INSTALL, pool, None, effort)
        _, packs = pack(target, {}, pool, lambda step, done, total: None, effort)
        return Spent(min(map(len, made.values())), sum(map(len, packs.values())), time.process_time() - begin)


def table(corpus: Path, chosen: list[str]) -> Iterator[str]:
    """Lines of a Markdown table, the smallest pairs first."""
    yield "| pair | update: max | default | fast | packs: max | default | fast | seconds: max | default | fast |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    pairs = [folder for folder in corpus.iterdir() if folder.is_dir() and (not chosen or folder.name in chosen)]
    for folder in sorted(pairs, key=lambda pair: next(pair.glob("new.*")).stat().st_size):
        found = [
            measure(next(folder.glob("old.*")), next(folder.glob("new.*")), effort)
            for effort in (Effort.MAX, Effort.DEFAULT, Effort.FAST)
        ]
        most = found[0]
        cells = [f"{most.update:,}", *(_more(each.update, most.update) for each in found[1:])]
        cells += [f"{most.packs:,}", *(_more(each.packs, most.packs) for each in found[1:])]
        cells += [f"{each.seconds:.1f}" for each in found]
        yield f"| {folder.name} | " + " | ".join(cells) + " |"


def _more(size: int, least: int) -> str:
    return f"{100 * (size / least - 1):+.2f} %"


def main() -> None:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("pairs", nargs="*")
    options = parser.parse_args()
    for line in table(options.corpus, options.pairs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
