"""The trust bundle: one model's usual TUF refresh in one small object (FORMAT.md §bundle). No I/O, no trust here.

A bundle proves nothing: it holds copies of signed metadata and unsigned hints, and its reader checks the former.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelsync_protocol import caps
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_varint

FORMAT = 1
OWN_FORMAT = 2
"""Of a bundle whose timestamp and snapshot are of the model's own chain: readers of format 1 must not take them for the
shared ones, which are signed by the same keys."""

_NEXT = 0x01
_AGAIN = 0x02
_ENTRY = 32
_MAX_ENTRIES = 4096
_FIRST_PLACE = 0x20
_MAX_REPEATED = 128
_HEX = re.compile(rb'(?<=")(?:[0-9a-f]{64})+(?=")')
_MARKS = re.compile(rb"\x01|\x02.", re.DOTALL)

_DICTIONARY = (
    b'{"_type":"targets","expires":"2027-11-01T","role":"","spec_version":"1.0.31","targets":{"/1":{"custom":{"hashes":{"sha256":'
    b'"\x01"},"length":1000},"/2":{"hashes":{"sha256":"\x01"},"length":"version":10,"withdrawn":[1,2]}}\n'
    b'{"_type":"snapshot","expires":"2026-12-","meta":{".archive.json":{"version":1},".json":{"version":1},'
    b'"targets.json":{"version":2}},"spec_version":"1.0.31","version":3}}\n'
    b'{"signatures":[{"keyid":"\x02 ","sig":"\x01\x01"}],"signed":{'
    b'{"signatures":[{"keyid":"\x01","sig":"\x01\x01"}],"signed":{"_type":"timestamp","expires":"2026-12-0'
    b'T00:00:00Z","issued":"2026-11-2T0:00:00Z","meta":{"snapshot.json":{"version":1}},"spec_version":"1.0.31",'
    b'"version":1}}\n{"signatures":[{"keyid":"\x02 ","sig":"\x01\x01"}],"signed":{"_type":"snapshot","expires":"202'
)
"""What every bundle says; part of format 1 and therefore never changed."""

_OWN_DICTIONARY = (
    b'{"_type":"targets","expires":"2027-11-01T","role":"","spec_version":"1.0.31","targets":{"/1":{"custom":{"hashes":{"sha256":'
    b'"\x01"},"length":1000},"/2":{"hashes":{"sha256":"\x01"},"length":"version":10,"withdrawn":[1,2]}}\n'
    b'{"signatures":[{"keyid":"\x01","sig":"\x01\x01"}],"signed":{"_type":"timestamp","expires":"2026-12-0'
    b'T00:00:00Z","issued":"2026-11-2T0:00:00Z","meta":{"snapshot.json":{"version":1}},"model":"","spec_version":"1.0.31",'
    b'"version":1}}\n{"signatures":[{"keyid":"\x02 ","sig":"\x01\x01"}],"signed":{"_type":"snapshot","expires":"2026-'
    b'12-0T00:00:00Z","meta":{".archive.json":{"version":1},".json":{"version":1},"targets.json":{"version":1}},"model":"'
    b'","spec_version":"1.0.31","version":1}}\n'
    b'{"signatures":[{"keyid":"\x02 ","sig":"\x01\x01"}],"signed":{"_type":"targets","expires":"202'
)
"""The same for format 2."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds: three metadata files as they lie under metadata/, and what else would cost a request."""

    root_version: int
    """The newest root's version when the bundle was made: a hint that spares the question for the next one."""
    targets_version: int
    """The top-level targets' metadata version (also in the snapshot)."""
    timestamp: bytes
    snapshot: bytes
    role: bytes
    offers: bytes = b""
    """Unsigned hints for the plan, opaque here."""
    own: bool = False
    """Whether timestamp and snapshot are of the model's own chain."""


def encode(bundle: Bundle) -> bytes:
    """Return the object's bytes; ValueError if a document is not compact JSON on one line."""
    documents = (bundle.timestamp, bundle.snapshot, bundle.role)
    text = b"\n".join(documents)
    if text.count(b"\n") != 2 or b"\x01" in text or b"\x02" in text:
        raise ValueError("metadata in a bundle must be compact JSON without raw control characters")
    table = _Table()
    text = _HEX.sub(lambda match: table.fold(match[0]), text)
    out = bytearray([OWN_FORMAT if bundle.own else FORMAT])
    write_varint(out, bundle.root_version)
    write_varint(out, bundle.targets_version)
    write_varint(out, len(bundle.offers))
    out += bundle.offers
    write_varint(out, len(table.entries))
    out += b"".join(table.entries)
    write_varint(out, len(text))
    out += zstd.compress(text, _OWN_DICTIONARY if bundle.own else _DICTIONARY)
    return bytes(out)


def decode(data: bytes) -> Bundle:
    """Read an object; FormatError on anything but a whole bundle of a known format, in bounded memory."""
    if len(data) > caps.MAX_BUNDLE_BYTES:
        raise FormatError(f"the trust bundle has {len(data)} bytes; the limit is {caps.MAX_BUNDLE_BYTES}.")
    reader = Reader(data, "the trust bundle")
    if (version := reader.varint(127)) not in (FORMAT, OWN_FORMAT):
        raise FormatError(
            f"the trust bundle has format {version}; this program reads {FORMAT} and {OWN_FORMAT}: update it."
        )
    own = version == OWN_FORMAT
    root_version = reader.varint(2**52)
    targets_version = reader.varint(2**52)
    offers = bytes(reader.take(reader.varint(caps.MAX_BUNDLE_BYTES)))
    count = reader.varint(_MAX_ENTRIES)
    table = [bytes(reader.take(_ENTRY)).hex().encode() for _ in range(count)]
    size = reader.varint(caps.MAX_BUNDLE_BYTES)
    frame = bytes(reader.take(len(data) - reader.offset))
    text = _unfold(zstd.decompress(frame, size, _OWN_DICTIONARY if own else _DICTIONARY), table)
    documents = text.split(b"\n")
    if len(documents) != 3:
        raise FormatError(f"the trust bundle holds {len(documents)} documents instead of 3.")
    timestamp, snapshot, role = documents
    return Bundle(root_version, targets_version, timestamp, snapshot, role, offers, own)


class _Table:
    """The 32-byte values of the text in order of first appearance, each once as far as marks can name them."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self._places: dict[bytes, int] = {}

    def fold(self, digits: bytes) -> bytes:
        """Return the marks that stand for `digits` (a multiple of 64 hex digits)."""
        marks = bytearray()
        for start in range(0, len(digits), 2 * _ENTRY):
            entry = bytes.fromhex(digits[start : start + 2 * _ENTRY].decode())
            place = self._places.get(entry)
            if place is not None:
                marks += bytes([_AGAIN, place + _FIRST_PLACE])
                continue
            if len(self.entries) < _MAX_REPEATED:
                self._places[entry] = len(self.entries)
            self.entries.append(entry)
            marks.append(_NEXT)
        return bytes(marks)


def _unfold(text: bytes, entries: list[bytes]) -> bytes:
    """Undo the folding; each entry is used, in order, and the result stays within the cap."""
    marks = _MARKS.findall(text)
    if len(text) + 2 * _ENTRY * len(marks) > caps.MAX_BUNDLE_BYTES:
        raise FormatError("the trust bundle is larger than allowed once it is unfolded.")
    following = iter(entries)

    def value(match: re.Match[bytes]) -> bytes:
        mark = match[0]
        if mark[0] == _NEXT:
            entry = next(following, None)
        else:
            place = mark[1] - _FIRST_PLACE
            entry = entries[place] if 0 <= place < min(len(entries), _MAX_REPEATED) else None
        if entry is None:
            raise FormatError("the trust bundle names a value that it does not hold.")
        return entry

    unfolded = _MARKS.sub(value, text)
    if next(following, None) is not None:
        raise FormatError("the trust bundle holds a value that nothing names.")
    return unfolded
