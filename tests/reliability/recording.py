"""Records what a real process does to the files below a folder, by strace, as operations on inodes and folders.

Data written through mappings can't be seen by strace: a writable shared mapping of a file that must survive fails the
recording. SQLite's -shm is left out, since it is rebuilt at the first open after a crash.
"""

from __future__ import annotations

import codecs
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,"
    "sync_file_range,msync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,"
    "symlinkat,chmod,fchmod,fchmodat,lseek,copy_file_range,sendfile,mmap"
)
_RESULT = re.compile(r"\) += (-?\d+)(?:<(.*?)>)?(?: .*)?$", re.DOTALL)
_IGNORED = ("-shm",)


@dataclass(frozen=True, slots=True)
class Write:
    """`data` at `offset` of a file; `size` instead: it is cut or grown to so many bytes; `mode`: its rights."""

    node: int
    offset: int = 0
    data: bytes = b""
    size: int | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync or fdatasync of a file or folder."""

    node: int
    folder: bool


@dataclass(frozen=True, slots=True)
class Enter:
    """A folder gets an entry: a new file, folder or symlink, or a hard link to what has one."""

    folder: int
    name: str
    node: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A folder loses an entry."""

    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """An entry moves, and replaces what bears its new name; atomic."""

    folder: int
    name: str
    new_folder: int
    new_name: str


@dataclass(frozen=True, slots=True)
class Said:
    """The process wrote to stdout: what it promised by then must be durable."""

    text: str


Op = Write | Sync | Enter | Leave | Rename | Said


@dataclass(slots=True)
class Node:
    """A file (content and mode), folder (entries) or symlink (target) as it was or is created: the rest is in ops."""

    kind: str
    content: bytes = b""
    mode: int = 0o644
    target: str = ""
    entries: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Recording:
    """`nodes` as they were before (new ones: empty), node 0 being the root, and what was done, in order."""

    nodes: list[Node]
    ops: list[Op]


def record(root: Path, command: Sequence[str | Path], **environment: str) -> Recording:
    """Run `command` under strace to its successful end; what it does below `root` comes back."""
    recorder = _Recorder(root)
    log = root.with_name(f"{root.name}.strace")
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "100000000", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", log, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for name, arguments, result in _calls(log):
        recorder.take(name, arguments, result)
    log.unlink()
    return Recording(recorder.nodes, recorder.ops)


def _calls(log: Path) -> Iterator[tuple[str, list[str], str]]:
    """Each completed call: its name, its arguments as strace prints them, and the rest of the line."""
    begun: dict[str, str] = {}
    with log.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            thread, _, text = line.rstrip("\n").partition(" ")
            text = text.strip()
            if text.startswith(("+++", "---")):
                continue
            if text.endswith("<unfinished ...>"):
                begun[thread] = text.removesuffix("<unfinished ...>").rstrip()
                continue
            if text.startswith("<..."):
                text = begun.pop(thread) + text.partition(" resumed>")[2]
            name, _, rest = text.partition("(")
            arguments, end = _split(rest)
            yield name, arguments, rest[end:]


def _split(text: str) -> tuple[list[str], int]:
    """The arguments up to the closing bracket, and where it stands."""
    parts, depth, begin, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        if character == '"':
            at = _string_end(text, at)
        elif character in "[{(":
            depth += 1
        elif character == "<":
            at = text.index(">", at)
        elif character in "]})":
            if depth == 0:
                break
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
        at += 1
    parts.append(text[begin:at].strip())
    return parts, at


def _string_end(text: str, start: int) -> int:
    match = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL).match(text, start)
    assert match is not None, text[start : start + 80]
    return match.end() - 1


def _string(text: str) -> bytes:
    assert text.startswith('"') and text.endswith('"'), f"strace cut a string short: {text[:60]}"
    return codecs.escape_decode(text[1:-1].encode("latin-1"))[0]


def _path_of(descriptor: str) -> str:
    """`5</a/b>` → `/a/b`; empty if it has none."""
    return descriptor[descriptor.find("<") + 1 : descriptor.rfind(">")] if "<" in descriptor else ""


class _Recorder:
    """Follows names to inodes while the calls go by."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())
        self.nodes: list[Node] = []
        self.ops: list[Op] = []
        self._entries: dict[int, dict[str, int]] = {}
        self._inodes: dict[int, int] = {}
        self._places: dict[str, int] = {}
        self._snapshot(Path(self.root))

    def _snapshot(self, path: Path) -> int:
        info = path.lstat()
        if path.is_symlink():
            return self._add(Node("link", target=str(path.readlink())))
        if path.is_file():
            if info.st_ino not in self._inodes:
                content = path.read_bytes()
                self._inodes[info.st_ino] = self._add(Node("file", content, info.st_mode & 0o777))
            return self._inodes[info.st_ino]
        number = self._add(Node("folder", mode=info.st_mode & 0o777))
        for child in sorted(path.iterdir()):
            if not child.name.endswith(_IGNORED) and not child.is_socket():
                self.nodes[number].entries[child.name] = self._snapshot(child)
        self._entries[number] = dict(self.nodes[number].entries)
        return number

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        if node.kind == "folder":
            self._entries[len(self.nodes) - 1] = {}
        return len(self.nodes) - 1

    # --- names ---

    def _split_path(self, path: str) -> tuple[int, str] | None:
        """The folder and the name of a path below the root; None if it lies elsewhere or is left out."""
        path = os.path.normpath(path)
        if not path.startswith(self.root + "/") or path.endswith(_IGNORED):
            return None
        *folders, name = path[len(self.root) + 1 :].split("/")
        at = 0
        for folder in folders:
            at = self._entries[at][folder]
        return at, name

    def _find(self, path: str) -> int | None:
        if os.path.normpath(path) == self.root:
            return 0
        place = self._split_path(path)
        return None if place is None else self._entries[place[0]].get(place[1])

    def _place(self, folder: str, name: str) -> tuple[int, str] | None:
        path = os.fsdecode(_string(name))
        return self._split_path(path if path.startswith("/") else f"{_path_of(folder)}/{path}")

    # --- calls ---

    def take(self, name: str, arguments: list[str], result: str) -> None:
        """Take in one call."""
        match = _RESULT.match(result)
        if match is None or int(match[1]) < 0:
            return
        handler = getattr(self, f"_{name}", None)
        touched = [_path_of(argument) for argument in arguments]
        if handler is not None:
            handler(arguments, int(match[1]), match[2] or "")
        elif any(path.startswith(self.root) and not path.endswith(_IGNORED) for path in touched):
            raise AssertionError(f"the recorder does not know {name}({', '.join(arguments)[:200]})")

    def _openat(self, arguments: list[str], result: int, path: str) -> None:
        self._places[f"{result}<{path}>"] = 0
        place = self._split_path(path)
        if place is None or "O_RDONLY" in arguments[2] or "O_PATH" in arguments[2]:
            return
        folder, name = place
        if name not in self._entries[folder]:
            mode = int(arguments[3], 8) if len(arguments) > 3 else 0o644
            self._enter(folder, name, Node("file", mode=mode & ~0o022))
        elif "O_TRUNC" in arguments[2]:
            self.ops.append(Write(self._entries[folder][name], size=0))

    def _open(self, arguments: list[str], result: int, path: str) -> None:
        self._openat(["", *arguments], result, path)

    def _lseek(self, arguments: list[str], result: int, path: str) -> None:
        self._places[arguments[0]] = result

    def _write(self, arguments: list[str], result: int, path: str) -> None:
        if arguments[0].startswith("1<") and not _path_of(arguments[0]).startswith(self.root):
            self.ops.append(Said(os.fsdecode(_string(arguments[1]))))
            return
        node = self._file(arguments[0])
        if node is not None:
            offset = self._places.get(arguments[0], 0)
            self.ops.append(Write(node, offset, _string(arguments[1])[:result]))
            self._places[arguments[0]] = offset + result

    def _pwrite64(self, arguments: list[str], result: int, path: str) -> None:
        node = self._file(arguments[0])
        if node is not None:
            self.ops.append(Write(node, int(arguments[3]), _string(arguments[1])[:result]))

    def _ftruncate(self, arguments: list[str], result: int, path: str) -> None:
        node = self._file(arguments[0])
        if node is not None:
            self.ops.append(Write(node, size=int(arguments[1])))

    def _fchmod(self, arguments: list[str], result: int, path: str) -> None:
        node = self._file(arguments[0])
        if node is not None:
            self.ops.append(Write(node, mode=int(arguments[1], 8)))

    def _chmod(self, arguments: list[str], result: int, path: str) -> None:
        node = self._find(os.fsdecode(_string(arguments[0])))
        if node is not None and self.nodes[node].kind == "file":
            self.ops.append(Write(node, mode=int(arguments[1], 8)))

    def _fchmodat(self, arguments: list[str], result: int, path: str) -> None:
        self._chmod(arguments[1:], result, path)

    def _fsync(self, arguments: list[str], result: int, path: str) -> None:
        path = _path_of(arguments[0])
        node = None if path.endswith("(deleted)") else self._find(path)
        if node is not None:
            self.ops.append(Sync(node, self.nodes[node].kind == "folder"))

    _fdatasync = _fsync

    def _mkdirat(self, arguments: list[str], result: int, path: str) -> None:
        self._mkdir(arguments[1:], result, path)

    def _mkdir(self, arguments: list[str], result: int, path: str) -> None:
        place = self._place("", arguments[0])
        if place is not None:
            self._enter(*place, Node("folder", mode=int(arguments[1], 8) & ~0o022))

    def _symlink(self, arguments: list[str], result: int, path: str) -> None:
        place = self._place("", arguments[1])
        if place is not None:
            self._enter(*place, Node("link", target=os.fsdecode(_string(arguments[0]))))

    def _link(self, arguments: list[str], result: int, path: str) -> None:
        source, place = self._find(os.fsdecode(_string(arguments[0]))), self._place("", arguments[1])
        if place is not None:
            assert source is not None, "a hard link from elsewhere"
            self._entries[place[0]][place[1]] = source
            self.ops.append(Enter(*place, source))

    def _linkat(self, arguments: list[str], result: int, path: str) -> None:
        self._link([arguments[1], arguments[3]], result, path)

    def _unlink(self, arguments: list[str], result: int, path: str) -> None:
        self._unlinkat(["", arguments[0]], result, path)

    _rmdir = _unlink

    def _unlinkat(self, arguments: list[str], result: int, path: str) -> None:
        place = self._place(arguments[0], arguments[1])
        if place is not None:
            del self._entries[place[0]][place[1]]
            self.ops.append(Leave(*place))

    def _rename(self, arguments: list[str], result: int, path: str) -> None:
        source, target = self._place("", arguments[0]), self._place("", arguments[1])
        assert (source is None) == (target is None), "a rename over the root's edge"
        if source is not None and target is not None:
            self._entries[target[0]][target[1]] = self._entries[source[0]].pop(source[1])
            self.ops.append(Rename(*source, *target))

    def _renameat(self, arguments: list[str], result: int, path: str) -> None:
        self._rename([arguments[1], arguments[3]], result, path)

    _renameat2 = _renameat

    def _mmap(self, arguments: list[str], result: int, path: str) -> None:
        place = _path_of(arguments[4])
        if "MAP_SHARED" in arguments[3] and "PROT_WRITE" in arguments[2]:
            assert not place.startswith(self.root) or place.endswith(_IGNORED), f"{place} is written through a mapping"

    def _enter(self, folder: int, name: str, node: Node) -> None:
        number = self._add(node)
        self._entries[folder][name] = number
        self.ops.append(Enter(folder, name, number))

    def _file(self, descriptor: str) -> int | None:
        path = _path_of(descriptor)
        return None if not path or path.endswith("(deleted)") else self._find(path)
