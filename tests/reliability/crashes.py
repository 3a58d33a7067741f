"""The states in which a crash may leave a disk, made from a recording (after ALICE, Pillai et al., OSDI 2014).

The model is a journaling file system that promises no more than POSIX: what was written to a file since its last
fsync may be there, missing, zero, or torn, in any order; names in a folder change in order, but only those up to the
folder's last fsync are certain to have changed, and a new name may be there before the data behind it. Renames are
atomic, also across folders.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.recording import Enter, Leave, Node, Op, Recording, Rename, Said, Sync, Write

LOST, KEPT, ZERO, TORN = "lost", "kept", "zero", "torn"
FATES = (LOST, KEPT, ZERO, TORN)
"""What may have become of a file's writes since its last fsync: none, all, only the sizes, the first half."""

_SECTOR = 512
_MAX_DIRTY = 3
"""With more unsynced files than this at once, their fates are drawn instead of all tried."""


@dataclass(frozen=True, slots=True)
class Crash:
    """After operation `point` (exclusive): how many name changes of each folder persisted, and each file's fate.

    `scrambled`: seed of a random subset of the unsynced writes, for files whose fate is not in `fates`.
    """

    point: int
    cuts: tuple[tuple[int, int], ...]
    fates: tuple[tuple[int, str], ...]
    scrambled: int | None = None


class Disk:
    """What is on the disk after a crash: nodes by number, as they would be read."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def digest(self) -> str:
        """Equal for disks that can't be told apart."""
        content = hashlib.sha256()
        for path, number in self._walk(0, ""):
            node = self.nodes[number]
            data = hashlib.sha256(node.content).hexdigest()
            content.update(f"{path}\0{node.kind}\0{node.mode}\0{node.target}\0{data}\n".encode())
        return content.hexdigest()

    def write(self, root: Path) -> None:
        """Lay it out at `root`, which must not exist; hard links stay hard links."""
        root.mkdir(parents=True)
        first: dict[int, Path] = {}
        for path, number in self._walk(0, ""):
            node, place = self.nodes[number], root / path
            if node.kind == "folder":
                place.mkdir(exist_ok=True)
            elif node.kind == "link":
                place.symlink_to(node.target)
            elif number in first:
                os.link(first[number], place)
            else:
                place.write_bytes(node.content)
                place.chmod(node.mode)
                first[number] = place

    def _walk(self, number: int, path: str) -> Iterator[tuple[str, int]]:
        for name, child in sorted(self.nodes[number].entries.items()):
            place = f"{path}/{name}" if path else name
            yield place, child
            yield from self._walk(child, place)


class Model:
    """Crash states of one recording."""

    def __init__(self, recording: Recording) -> None:
        self._nodes, self.ops = recording.nodes, recording.ops

    def said(self, point: int) -> str:
        """What the process had said on stdout before operation `point`."""
        return "".join(op.text for op in self.ops[:point] if isinstance(op, Said))

    def disk(self, crash: Crash) -> Disk:
        """The disk after `crash`."""
        nodes = [Node(node.kind, node.content, node.mode, node.target, dict(node.entries)) for node in self._nodes]
        cuts = dict(crash.cuts)
        for number, op in enumerate(self.ops[: crash.point]):
            if isinstance(op, Enter | Leave | Rename) and _kept(number, op, cuts):
                _change_names(nodes, op)
        for node, writes in self._writes(crash.point).items():
            _change_data(nodes[node], writes, self._synced(crash.point).get(node, 0), node, crash)
        return Disk(nodes)

    def exhaustive(self, points: range | None = None) -> Iterator[Crash]:
        """Every prefix x every legal cut of names in the order of the journal x every combination of fates.

        Where more than _MAX_DIRTY files are unsynced: the four uniform combinations.
        """
        for point in points or range(len(self.ops) + 1):
            for cuts in self._ordered_cuts(point):
                yield from (Crash(point, cuts, fates) for fates in self._fates(point))

    def sampled(self, seed: int) -> Iterator[Crash]:
        """Endless random crashes: folders lose name changes independently of each other, writes in any subset."""
        chance = random.Random(seed)
        while True:
            point = chance.randint(0, len(self.ops))
            certain = self._certain(point)
            cuts = {folder: chance.randint(least, point) for folder, least in certain.items()}
            yield Crash(point, tuple(sorted(self._atomic(point, cuts, certain).items())), (), chance.getrandbits(30))

    def _fates(self, point: int) -> Iterator[tuple[tuple[int, str], ...]]:
        synced = self._synced(point)
        dirty = [node for node, writes in self._writes(point).items() if writes[-1][0] >= synced.get(node, 0)]
        if len(dirty) > _MAX_DIRTY:
            yield from (tuple((node, fate) for node in dirty) for fate in FATES)
        else:
            yield from (tuple(zip(dirty, fates, strict=True)) for fates in itertools.product(FATES, repeat=len(dirty)))

    def _ordered_cuts(self, point: int) -> Iterator[tuple[tuple[int, int], ...]]:
        """One journal for all folders: a prefix of all name changes, at least up to what any fsync made certain."""
        certain = self._certain(point)
        least = max(certain.values(), default=0)
        changes = [n + 1 for n, op in enumerate(self.ops[:point]) if isinstance(op, Enter | Leave | Rename)]
        for cut in sorted({least, *(change for change in changes if change > least)}):
            yield tuple((folder, cut) for folder in sorted(certain))

    def _certain(self, point: int) -> dict[int, int]:
        """For each folder whose names change: operations before this one are certain, by its last fsync."""
        certain: dict[int, int] = {}
        for number, op in enumerate(self.ops[:point]):
            if isinstance(op, Enter | Leave):
                certain.setdefault(op.folder, 0)
            elif isinstance(op, Rename):
                certain.setdefault(op.folder, 0)
                certain.setdefault(op.new_folder, 0)
            elif isinstance(op, Sync) and op.folder:
                certain[op.node] = number
        return certain

    def _atomic(self, point: int, cuts: dict[int, int], certain: dict[int, int]) -> dict[int, int]:
        """A rename from folder to folder happened in both or in neither."""
        while True:
            for number, op in enumerate(self.ops[:point]):
                if not isinstance(op, Rename) or (number < cuts[op.folder]) == (number < cuts[op.new_folder]):
                    continue
                ahead, behind = (op.folder, op.new_folder)
                if number < cuts[behind]:
                    ahead, behind = behind, ahead
                if number >= certain[ahead]:
                    cuts[ahead] = number
                else:
                    cuts[behind] = number + 1
                break
            else:
                return cuts

    def _writes(self, point: int) -> dict[int, list[tuple[int, Write]]]:
        found: dict[int, list[tuple[int, Write]]] = {}
        for number, op in enumerate(self.ops[:point]):
            if isinstance(op, Write):
                found.setdefault(op.node, []).append((number, op))
        return found

    def _synced(self, point: int) -> dict[int, int]:
        return {op.node: n for n, op in enumerate(self.ops[:point]) if isinstance(op, Sync) and not op.folder}


def _kept(number: int, op: Enter | Leave | Rename, cuts: dict[int, int]) -> bool:
    folders = (op.folder, op.new_folder) if isinstance(op, Rename) else (op.folder,)
    return all(number < cuts[folder] for folder in folders)


def _change_names(nodes: list[Node], op: Enter | Leave | Rename) -> None:
    entries = nodes[op.folder].entries
    if isinstance(op, Enter):
        entries[op.name] = op.node
    elif isinstance(op, Leave):
        entries.pop(op.name, None)
    elif op.name in entries:
        nodes[op.new_folder].entries[op.new_name] = entries.pop(op.name)


def _change_data(node: Node, writes: list[tuple[int, Write]], synced: int, number: int, crash: Crash) -> None:
    fate = dict(crash.fates).get(number)
    chance = random.Random(f"{crash.scrambled}/{number}")
    content = bytearray(node.content)
    unsure = [at for at, _ in writes if at >= synced]
    for at, write in writes:
        doom = KEPT
        if at >= synced:
            if fate == TORN:
                place = unsure.index(at)
                doom = KEPT if place < len(unsure) // 2 else TORN if place == len(unsure) // 2 else LOST
            else:
                doom = fate or chance.choice(FATES)
        if doom != LOST:
            _write(node, content, write, doom)
    node.content = bytes(content)


def _write(node: Node, content: bytearray, write: Write, fate: str) -> None:
    if write.mode is not None:
        node.mode = write.mode
        return
    if write.size is not None:
        del content[write.size :]
        content.extend(bytes(write.size - len(content)))
        return
    data = write.data
    if fate == ZERO:
        data = bytes(len(data))
    elif fate == TORN:
        data = data[: max(len(data) // 2 // _SECTOR * _SECTOR, min(len(data), 1) if len(data) < _SECTOR else 0)]
    end = write.offset + len(data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[write.offset : end] = data


def without(recording: Recording, drop: object) -> Recording:
    """The recording as it would be had the product left out the operations that `drop(op)` is true for."""
    assert callable(drop)
    kept: list[Op] = [op for op in recording.ops if not drop(op)]
    assert len(kept) < len(recording.ops), "nothing of the kind was recorded"
    return Recording(recording.nodes, kept)
