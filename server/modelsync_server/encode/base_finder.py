"""Finds a target's chunks in its base, and what of the base corresponds to any place of the target. No I/O here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from modelsync_protocol import caps
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy
from modelsync_server.tensors.pieces import Chunk

_JOIN_BYTES = 256 * caps.KIB
"""Unchanged runs up to this size between two changed ones are carried inside one frame."""

_JOIN_OWN_BYTES = 8 * caps.KIB
"""The same for runs that the target itself holds earlier: frames that know tensors would code them once more."""


class BaseFinder:
    """Finds the target's chunks in the base (or earlier in the target), and the base's counterpart of any place."""

    def __init__(self, base: Manifest, target: Manifest) -> None:
        in_base: dict[str, int] = {}
        for offset, _, digest in base.chunks():
            in_base.setdefault(digest, offset)
        at_base = {offset: digest for offset, _, digest in base.chunks()}
        self._found: dict[int, Copy] = {}
        own: dict[str, int] = {}
        anchors = {0: 0}
        anchors.update(_file_anchors(base, target))
        shift = 0
        for offset, size, digest in target.chunks():
            shift = anchors[offset] - offset if offset in anchors else shift
            if digest in in_base:
                # The counterpart, if it is the same: copies then run on and cost one operation.
                place = offset + shift if at_base.get(offset + shift) == digest else in_base[digest]
                self._found[offset] = Copy(size, place)
                anchors[offset] = place
                shift = place - offset
            elif digest in own:
                self._found[offset] = Copy(size, own[digest], own=True)
            own.setdefault(digest, offset)
        self._places = sorted(anchors)
        self._anchors = anchors
        self._size = base.size

    def find(self, chunk: Chunk) -> Copy | None:
        """Where the chunk can be copied from, if anywhere."""
        return self._found.get(chunk[0])

    def worth_a_cut(self, chunks: Sequence[Chunk]) -> bool:
        """Whether a run that can be copied should be, although that cuts a frame in two."""
        own = sum(size for offset, size, _ in chunks if self._found[offset].own)
        return sum(size for _, size, _ in chunks) > _JOIN_BYTES or own > _JOIN_OWN_BYTES

    def counterpart(self, offset: int) -> int:
        """The place in the base's stream that corresponds to `offset` of the target's."""
        anchor = self._places[bisect_right(self._places, offset) - 1]
        return min(max(0, self._anchors[anchor] + offset - anchor), self._size)


def _file_anchors(base: Manifest, target: Manifest) -> dict[int, int]:
    """Starts of files that correspond: by path, else by base name, of several that whose path is most alike."""
    places = {file.path: offset for file, offset in zip(base.files, base.file_offsets, strict=False)}
    by_name: dict[str, list[str]] = {}
    for path in sorted(places):
        by_name.setdefault(_name(path), []).append(path)
    backwards = {name: sorted(path[::-1] for path in paths) for name, paths in by_name.items() if len(paths) > 1}
    anchors = {}
    for file, offset in zip(target.files, target.file_offsets, strict=False):
        path, name = file.path, _name(file.path)
        if path not in places and name in by_name:
            # In order of their letters, what begins most alike stands beside it; backwards, what ends most alike.
            alike = [*_beside(path, by_name[name]), *(p[::-1] for p in _beside(path[::-1], backwards.get(name, [])))]
            path = max(alike, key=lambda other: _common(file.path, other) + _common(file.path[::-1], other[::-1]))
        if path in places:
            anchors[offset] = places[path]
    return anchors


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _beside(path: str, ordered: Sequence[str]) -> Sequence[str]:
    """The two between which `path` would stand."""
    place = bisect_right(ordered, path)
    return ordered[max(0, place - 1) : place + 1]


def _common(one: str, other: str) -> int:
    """How many first letters of both are the same."""
    same = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))
