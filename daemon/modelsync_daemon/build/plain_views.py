"""Builds a target through plain views: unpacks the base's members into a file, takes the target's plain ones in
another, and packs them into the target's tree.

What is made here is unverified like every assembly. Memory stays at a few blocks; both files go with the build.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from modelsync_daemon.build.plan_executor import Linked, Readable
from modelsync_daemon.build.seeds import StreamReader
from modelsync_daemon.build.target_tree import Assembly, local_errors
from modelsync_daemon.disk.durable import fsync_directory
from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError
from modelsync_protocol.plain import recipes
from modelsync_protocol.plain.recipes import BLOCK_BYTES
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plain.view import Member, View
from modelsync_protocol.plan import OWN, CopyStep, Plan

_BASE, _TARGET = "base.plain", "target.plain"
_UNPACK_BYTES = 1 << 20
"""Plain bytes after which other tasks of this process get their turn."""


class ViewReader:
    """Ranges of a view: what is rest comes from the tree, members from the file `plain`."""

    def __init__(self, view: View, tree: Readable, plain: Path) -> None:
        self._view = view
        self._tree = tree
        self._plain = plain
        self._descriptor = -1

    def read(self, offset: int, length: int) -> bytes:
        """Return a range of the view; bytes that the disk lacks come as zeros."""
        parts = []
        for piece in self._view.pieces(offset, length):
            if piece.member is None:
                parts.append(self._tree.read(piece.offset, piece.length))
            else:
                parts.append(self.plain(piece.offset, piece.length))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def plain(self, place: int, length: int) -> bytes:
        """Return `length` bytes from `place` of all members' plain bytes on."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._plain, os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(self._descriptor, length, place)
        except OSError:
            data = b""
        return data + bytes(length - len(data))

    def member(self, number: int) -> Iterator[bytes]:
        """Yield a member's plain bytes in the blocks that its recipe takes."""
        begin, end = self._view.member_places[number : number + 2]
        for place in range(begin, end, BLOCK_BYTES):
            yield self.plain(place, min(BLOCK_BYTES, end - place))

    def close(self) -> None:
        """Close the file; the reader may be used again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ViewedTarget:
    """The assembly of a target's view; a destination for the plan's steps. `folder` is the build's."""

    def __init__(self, view: View, assembly: Assembly, folder: Path) -> None:
        self._view = view
        self._assembly = assembly
        self._plain = folder / _TARGET
        self.reader = ViewReader(view, assembly.reader, self._plain)
        self._dirty = False

    def prepare(self) -> None:
        """Make the file of plain bytes, with its full size; what is in it stays. Durable. Raises LocalError."""
        if not self._view.members:
            return
        with local_errors(self._plain):
            descriptor = os.open(self._plain, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size != self._view.plain_bytes:
                    os.ftruncate(descriptor, self._view.plain_bytes)
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            fsync_directory(self._plain.parent)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes into the view at `offset`; durable after `sync`. Raises LocalError."""
        rest = memoryview(data)
        for piece in self._view.pieces(offset, len(data)):
            part, rest = rest[: piece.length], rest[piece.length :]
            if piece.member is None:
                self._assembly.write(piece.offset, part)
            else:
                self._write_plain(piece.offset, part)

    def sync(self) -> None:
        """Make all writes so far durable. Raises LocalError."""
        self._assembly.sync()
        if self._dirty:
            with local_errors(self._plain):
                descriptor = os.open(self._plain, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
            self._dirty = False

    async def pack(self) -> None:
        """Make each member's packed bytes in the tree from its plain ones. May be repeated. Raises LocalError.

        A member that comes out too short (this zlib is another) is left as it is: verification finds it.
        """
        done = 0
        for number, member in enumerate(self._view.members):
            position = member.offset
            try:
                for piece in recipes.pack(member.recipe, self.reader.member(number), member.packed):
                    self._assembly.write(position, piece)
                    position += len(piece)
                    done += len(piece)
                    if done > _UNPACK_BYTES:
                        await asyncio.sleep(0)
                        done = 0
            except FormatError:
                continue
        self._assembly.sync()

    def packed_otherwise(self, damaged: frozenset[int]) -> bool:
        """Whether a member had the right plain bytes and came out wrong, now that the tree has been mended.

        `damaged` are offsets of the stream where chunks were wrong.
        """
        for number, member in enumerate(self._view.members):
            if any(member.offset - caps.TENSOR_CHUNK_BYTES < at < member.offset + member.packed for at in damaged):
                try:
                    return _digest(_unpacked(self._assembly.reader, member)) == _digest(self.reader.member(number))
                except FormatError:
                    return False
        return False

    def _write_plain(self, place: int, data: memoryview) -> None:
        with local_errors(self._plain):
            descriptor = os.open(self._plain, os.O_WRONLY | os.O_CLOEXEC)
            try:
                while data:
                    written = os.pwrite(descriptor, data, place)
                    place += written
                    data = data[written:]
            finally:
                os.close(descriptor)
        self._dirty = True


async def unpacked_base(view: View, seed: StreamReader, folder: Path) -> ViewReader:
    """A reader of the base's view, whose members are unpacked into `folder` unless they were before.

    Raises FormatError if one does not unpack as the view says, LocalError.
    """
    plain = folder / _BASE
    if view.members and not plain.exists():
        half = plain.with_suffix(".half")
        done = 0
        with local_errors(half), half.open("wb") as out:
            for member in view.members:
                for piece in _unpacked(seed, member):
                    out.write(piece)
                    done += len(piece)
                    if done > _UNPACK_BYTES:
                        await asyncio.sleep(0)
                        done = 0
            out.flush()
            os.fsync(out.fileno())
            half.replace(plain)
            fsync_directory(folder)
    return ViewReader(view, seed, plain)


class ViewedLinks:
    """What of a plan between views needs no copy, as whole files of the trees are linked."""

    def __init__(self, views: Views, linked: Linked) -> None:
        self._views = views
        self._linked = linked

    def unlinked(self, step: CopyStep) -> list[tuple[int, int]]:
        """As Linked.unlinked."""
        parts: list[tuple[int, int]] = []
        begin = 0
        for piece in self._views.target.pieces(step.target, step.length):
            if piece.member is not None:
                parts.append((begin, begin + piece.length))
            else:
                inner = self._linked.unlinked(CopyStep(piece.offset, piece.length, step.seed, 0))
                parts += [(begin + first, begin + last) for first, last in inner]
            begin += piece.length
        return parts


def copies_between_trees(views: Views, plan: Plan) -> Iterator[CopyStep]:
    """The plan's copies from the base's tree to the target's, as ranges of their streams; neighbours are one."""
    last: CopyStep | None = None
    for step in plan.steps:
        if isinstance(step, CopyStep) and step.seed != OWN:
            position = 0
            for piece in views.target.pieces(step.target, step.length):
                target = piece.offset
                for other in views.base.pieces(step.offset + position, piece.length):
                    if piece.member is None and other.member is None:
                        copy = CopyStep(target, other.length, step.seed, other.offset)
                        if last and (last.target + last.length, last.offset + last.length) == (target, other.offset):
                            copy = CopyStep(last.target, last.length + other.length, step.seed, last.offset)
                        elif last:
                            yield last
                        last = copy
                    target += other.length
                position += piece.length
    if last:
        yield last


def _unpacked(tree: Readable, member: Member) -> Iterator[bytes]:
    """A member's plain bytes in blocks."""
    packed = (
        tree.read(member.offset + at, min(BLOCK_BYTES, member.packed - at))
        for at in range(0, member.packed, BLOCK_BYTES)
    )
    return recipes.unpack(member.recipe, packed, member.plain)


def _digest(pieces: Iterator[bytes]) -> bytes:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.digest()
