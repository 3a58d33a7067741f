"""Offline media: the index of an export, and the ustar headers of one that is a single file (FORMAT.md §17). No I/O.

A medium proves nothing: it is a part of a store in a file or folder, and its reader checks what it finds there as if
it had come from an origin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelsync_protocol import canonical, caps, names, trust
from modelsync_protocol.errors import FormatError, ModelsyncError

FORMAT = 1

INDEX = "modelsync-media.json"
"""The index: a file at the folder's top, or the file's first entry."""

BLOCK_BYTES = 512
"""A header, and what contents are padded to."""

MAX_OBJECT_BYTES = 8**11 - 1
"""What eleven octal digits hold: 8 GiB less one byte."""

_OBJECT = re.compile(
    r"metadata/(?:timestamp|[1-9][0-9]{0,15}\.[a-z0-9][a-z0-9_.-]{0,80})\.json"
    r"|bundles/[a-z0-9][a-z0-9_-]{0,62}\.timestamp\.json"
    r"|(?:manifests|packs)/[0-9a-f]{64}|updates/[0-9a-f]{64}/[0-9a-f]{64}\.v[1-9]"
)
_STORE = re.compile(r"[0-9a-f]{1,64}")
_NAME_BYTES, _PREFIX_BYTES = 100, 155
_KEYS = {"format", "store", "issued", "models"}
_WHAT = "the medium's index"


@dataclass(frozen=True, slots=True)
class Medium:
    """What an index says: the `store` (its id), when its timestamp was signed (`issued`, as in metadata), and which
    versions of which `models` are there, newest first. The constructor validates; FormatError."""

    store: str
    issued: str
    models: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _STORE.fullmatch(self.store):
            raise FormatError(f"{_WHAT} names no store.")
        trust.parse_time(self.issued)
        for name, versions in self.models.items():
            try:
                names.check_model_name(name)
                for version in versions:
                    names.check_version(version)
            except ModelsyncError as error:
                raise FormatError(f"{_WHAT}: {error}") from error
            if not versions or list(versions) != sorted(set(versions), reverse=True):
                raise FormatError(f"{_WHAT} does not list the versions of {name} from the newest on.")


def encode(medium: Medium) -> bytes:
    """The index's bytes."""
    models = {name: list(versions) for name, versions in medium.models.items()}
    return canonical.encode({"format": FORMAT, "store": medium.store, "issued": medium.issued, "models": models})


def decode(data: bytes) -> Medium:
    """Read an index; FormatError on anything but a whole one of a known format."""
    limit = caps.MAX_MEDIA_INDEX_BYTES
    canonical.check_structure(data[: limit + 1], what=_WHAT, lists=limit // 16, items=limit // 8)
    document = canonical.decode(data, what=_WHAT, limit=limit)
    if not isinstance(document, dict):
        raise FormatError(f"{_WHAT} is not an object.")
    if document.get("format") != FORMAT:
        raise FormatError(f"{_WHAT} has format {document.get('format')!r:.20}; this program reads {FORMAT}: update it.")
    store, issued, models = document.get("store"), document.get("issued"), document.get("models")
    if document.keys() != _KEYS or not isinstance(store, str) or not isinstance(issued, str):
        raise FormatError(f"{_WHAT} does not have the keys {', '.join(sorted(_KEYS))}.")
    if not isinstance(models, dict) or not all(isinstance(versions, list) for versions in models.values()):
        raise FormatError(f"{_WHAT} does not list versions by model.")
    found = Medium(store, issued, {name: tuple(versions) for name, versions in models.items()})
    if encode(found) != data:
        raise FormatError(f"{_WHAT} is not in canonical form.")
    return found


def check_object(path: str) -> str:
    """Return `path` if it is an object's that a medium may hold, else raise FormatError."""
    if not _OBJECT.fullmatch(path):
        raise FormatError(f"{path!r:.80} is no object that a medium may hold.")
    return path


def padded(size: int) -> int:
    """Bytes that contents of `size` bytes take in the file."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


END = bytes(2 * BLOCK_BYTES)
"""What the file ends with."""


def header(path: str, size: int) -> bytes:
    """The ustar header (POSIX.1-1988) of one object: a regular file of nobody's, dated 1970. ValueError if too large.

    All but path and size is fixed, so that the same objects give the same bytes.
    """
    if not 0 <= size <= MAX_OBJECT_BYTES:
        raise ValueError(f"{path} has {size} bytes; an entry has at most {MAX_OBJECT_BYTES}")
    prefix, name = "", path
    if len(path) > _NAME_BYTES:
        prefix, _, name = path.rpartition("/")
    if len(name) > _NAME_BYTES or len(prefix) > _PREFIX_BYTES:
        raise ValueError(f"{path!r:.80} is too long for an entry")
    block = bytearray(BLOCK_BYTES)
    for offset, text in (
        (0, name),
        (100, "0000644\0" + "0000000\0" + "0000000\0" + f"{size:011o}\0" + "00000000000\0" + " " * 8 + "0"),
        (257, "ustar\0" + "00"),
        (329, "0000000\0" + "0000000\0" + prefix),
    ):
        raw = text.encode("ascii")
        block[offset : offset + len(raw)] = raw
    block[148:156] = f"{sum(block):06o}\0 ".encode("ascii")
    return bytes(block)


def read_header(block: bytes) -> tuple[str, int] | None:
    """Path and size of the entry behind a header; None for a block of zeros, which ends the file. FormatError.

    There is one spelling only: what was packed by other programs is refused.
    """
    if len(block) != BLOCK_BYTES:
        raise FormatError("the export is cut short; copy it again.")
    if not any(block):
        return None
    name, prefix = (bytes(block[a:b]).rstrip(b"\0") for a, b in ((0, _NAME_BYTES), (345, 345 + _PREFIX_BYTES)))
    digits = bytes(block[124:135])
    try:
        path = (prefix + b"/" + name if prefix else name).decode("ascii")
        size = int(digits.decode("ascii"), 8)
        same = header(path, size) == block
    except ValueError:
        same = False
    if not same:
        raise FormatError("the file is not an export of `modelsync export`, or is damaged; copy it again.")
    return (path if path == INDEX else check_object(path)), size


def entries(read: Callable[[int, int], bytes], size: int) -> dict[str, tuple[int, int]]:
    """Path → offset and bytes of every entry of a file of `size` bytes; `read(offset, count)` gives its bytes.

    FormatError for anything but a whole file in its one spelling.
    """
    places: dict[str, tuple[int, int]] = {}
    position, last = 0, ""
    while True:
        if position + BLOCK_BYTES > size:
            raise FormatError("the export is cut short; copy it again.")
        entry = read_header(read(position, BLOCK_BYTES))
        if entry is None:
            break
        path, length = entry
        if (
            len(places) >= caps.MAX_MEDIA_OBJECTS
            or (path == INDEX) == bool(places)
            or (len(places) > 1 and path <= last)
        ):
            raise FormatError("the file is not an export of `modelsync export`: its entries are disordered.")
        last = path
        places[path] = (position + BLOCK_BYTES, length)
        position += BLOCK_BYTES + padded(length)
    if not places or size - position != len(END):
        raise FormatError("the export is cut short, or has bytes behind its end; copy it again.")
    return places
