"""Digests are held as bytes and are what a tuple of strings was."""

from __future__ import annotations

import hashlib
import json

import pytest

from modelsync_protocol import canonical
from modelsync_protocol import manifest as manifests
from modelsync_protocol.digests import Digests
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Link, Manifest, RegularFile

MANY = tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(2500))


@pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024, 1025, 2048, 2500])
def test_digests_come_back_from_json(count: int) -> None:
    digests = Digests.of(MANY[:count])
    text = b"".join(digests.json())
    assert text == json.dumps(MANY[:count], separators=(",", ":")).encode()[1:-1]
    assert Digests.read(memoryview(text)) == digests == MANY[:count]


def test_digests_are_a_sequence_of_strings() -> None:
    digests = Digests.of(iter(MANY))
    assert list(digests) == list(MANY) and len(digests) == len(MANY)
    assert digests[7] == MANY[7] and digests[-1] == MANY[-1] and digests[3:9:2] == MANY[3:9:2]
    assert MANY[5] in digests and hash(digests) == hash(MANY) and repr(digests[:1]) == repr(MANY[:1])
    with pytest.raises(IndexError):
        digests[len(MANY)]


@pytest.mark.parametrize("text", [b'"ab"', b'""', b'"' + b"g" * 64 + b'"', MANY[0].encode(), b'"' + b"0" * 64 + b"';"])
def test_what_is_no_list_of_digests_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        Digests.read(memoryview(text))


def test_a_manifest_written_in_parts_is_canonical() -> None:
    entries = (
        Link('a"\u00e9\u2028{', "b"),
        RegularFile('b{"digests":["', 0o644, (), ()),
        RegularFile("c", 0o755, tuple(range(1, 2501)), MANY),
        RegularFile("d", 0, (5,), MANY[:1]),
    )
    manifest = Manifest(entries, {"model": "c", "\u00e9": '"'})
    document = {
        "format": 1,
        "files": [
            {"path": entries[0].path, "link": "b"},
            *(
                {"path": e.path, "mode": e.mode, "sizes": list(e.sizes), "digests": list(e.digests)}
                for e in entries
                if isinstance(e, RegularFile)
            ),
        ],
        "probe": None,
        "requires": {"model": "c", "\u00e9": '"'},
    }
    assert manifest.encoded == canonical.encode(document)
    assert manifests.decode(manifest.encoded) == manifest
    assert manifests.complete(manifest.skeleton, iter((*MANY, MANY[0]))).digest == manifest.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b'"digests":["', b'"digests":[ "', 1),
        lambda text: text.replace(MANY[0].encode(), MANY[0].upper().encode(), 1),
        lambda text: text.replace(b'"digests":["' + MANY[1].encode() + b'"]', b'"digests":0', 1),
        lambda text: text.replace(b'"]', b"", 1),
        lambda text: text.replace(MANY[0].encode() + b'"', MANY[0].encode() + b'","' + MANY[0].encode() + b'"', 1),
    ],
)
def test_another_spelling_is_refused(change: object) -> None:
    text = Manifest(tuple(RegularFile(name, 0, (5,), (MANY[n],)) for n, name in enumerate("ab"))).encoded
    assert callable(change) and change(text) != text
    with pytest.raises(FormatError):
        manifests.decode(change(text))
