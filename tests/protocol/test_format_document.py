"""FORMAT.md can't drift: its examples are run against the code, its caps and sections are compared with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelsync_protocol import (
    bundle,
    caps,
    carried_report,
    chunker,
    codecs,
    manifest,
    media,
    offers,
    release_record,
    update,
    wire,
)
from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_protocol.ops import Copy, Frame, Op, read_ops, write_ops
from modelsync_protocol.plain import reference, section
from modelsync_protocol.plain.recipes import Wrapping
from modelsync_protocol.plain.view import Member
from modelsync_protocol.plan import NOTHING
from modelsync_protocol.requirements import terms

TEXT = (Path(__file__).parents[2] / "protocol" / "FORMAT.md").read_text(encoding="utf-8")


def example(name: str) -> list[str]:
    """The lines of a fenced example, without comments."""
    found = re.findall(rf"^```text example: {name}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"FORMAT.md has {len(found)} examples named {name}"
    return [line.partition("#")[0].rstrip() for line in found[0].splitlines()]


def fields(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Lines `key   value` (two or more spaces between)."""
    for line in lines:
        key, _, value = line.partition("  ")
        yield key.strip(), value.strip()


def hexes(lines: list[str]) -> bytes:
    """The bytes of all lines that are hex digits only."""
    return bytes.fromhex("".join(line for line in lines if re.fullmatch(r"[0-9a-f ]+", line)))


def test_integers_are_written_and_read_as_in_the_examples() -> None:
    for name, write, read in (
        ("varints", wire.write_varint, wire.Reader.varint),
        ("signed", wire.write_signed, wire.Reader.signed),
    ):
        for line in example(name):
            value, _, digits = line.partition(" = ")
            out = bytearray()
            write(out, int(value))
            assert out == bytes.fromhex(digits)
            assert read(wire.Reader(bytes(out), "it"), abs(int(value))) == int(value)


def sample_manifest() -> Manifest:
    return manifest.decode(dict(fields(example("manifest")))["json"].encode())


def test_the_manifest_has_the_digest_and_skeleton_that_the_document_says() -> None:
    said = dict(fields(example("manifest")))
    found = sample_manifest()
    assert found.digest == said["digest"]
    assert found.skeleton.decode() == said["skeleton"]
    assert hashlib.sha256(bytes.fromhex(said["stream"])).hexdigest() == found.files[0].digests[0]
    assert manifest.complete(said["skeleton"].encode(), iter(found.files[0].digests)) == found


def test_a_reader_that_follows_the_chunk_rules_to_the_letter_finds_the_same_cuts() -> None:
    said = dict(fields(example("chunks")))
    gear = [int.from_bytes(hashlib.sha256(f"modelsync gear {v}".encode()).digest()[:4], "little") for v in range(256)]
    assert [f"{gear[v]:08x}" for v in (0, 1, 255)] == [said["gear[0]"], said["gear[1]"], said["gear[255]"]]
    assert hashlib.sha256(b"".join(g.to_bytes(4, "little") for g in gear)).hexdigest() == said["all gears"]
    data = b"".join(hashlib.sha256(b"chunks %d" % number).digest() for number in range(3125))
    assert (len(data), hashlib.sha256(data).hexdigest()) == (100_000, said["input"])
    rolling, candidates = 0, []
    for place, byte in enumerate(data):
        rolling = ((rolling << 1) + gear[byte]) & 0xFFFFFFFF
        if rolling < 349525:
            candidates.append(place + 1)
    sizes, start, size = [], 0, len(data)
    while size - start > 4096:
        cut = next((c for c in candidates if c >= start + 4096), size)
        end = min(cut, start + 65536, size)
        sizes.append(end - start)
        start = end
    if start < size:
        sizes.append(size - start)
    assert sizes == [int(n) for n in said["sizes"].split()]
    assert chunker.chunk_sizes("a.bin", memoryview(data)) == tuple(sizes)


def say(op: Op) -> str:
    if isinstance(op, Copy):
        return f"copy {op.length} from {'target' if op.own else 'base'} {op.offset}"
    lean = f" base {op.base_offset}+{op.base_length}" if op.base_length else ""
    return f"frame encoding {op.encoding} length {op.length} payload {op.payload_length} prefix {op.prefix}{lean}"


def test_operations_are_read_and_written_as_in_the_example() -> None:
    lines = list(fields(example("operations")))
    said = dict(lines)
    sizes = tuple(map(int, said["chunks"].split()))
    target = Manifest((RegularFile("a", 0o644, sizes, ("0" * 64,) * len(sizes)),))
    data = bytes.fromhex(said["bytes"])
    operations = read_ops(wire.Reader(data, "it"), target=target, base_size=int(said["base"]))
    assert [say(op) for op in operations] == [value for key, value in lines if key == "says"]
    out = bytearray()
    write_ops(out, operations)
    assert out == data


def say_member(side: str, member: Member) -> str:
    recipe = member.recipe
    how = recipe.wrapping.name.lower()
    if recipe.wrapping != Wrapping.STORED:
        how += (
            f" level {recipe.level} window {recipe.window_bits} memory {recipe.memory_level} strategy {recipe.strategy}"
        )
    return f"{side} {member.plain} plain bytes in {member.packed} at {member.offset}: {how}"


def test_plain_views_are_read_and_written_as_in_the_example() -> None:
    lines = list(fields(example("plain views")))
    said = dict(lines)
    data = bytes.fromhex(said["bytes"])
    reader = wire.Reader(data, "it")
    views = section.read(reader, int(said["base"]), int(said["target"]))
    reader.end()
    assert views is not None
    found = [say_member("base", member) for member in views.base.members]
    found += [say_member("target", member) for member in views.target.members]
    assert found == [value for key, value in lines if key == "says"]
    out = bytearray()
    section.write(out, views)
    assert out == data
    assert f"`{reference.fingerprint()}`" in TEXT
    assert f"`{NOTHING.digest[:4]}…`" in TEXT and NOTHING.encoded.decode() in TEXT


def test_the_zstd_example_decodes() -> None:
    said = dict(fields(example("zstd")))
    data = codecs.decode(codecs.ZSTD, bytes.fromhex(said["payload"]), int(said["length"]), b"", b"", b"")
    assert data == bytes.fromhex(said["decoded"])


def test_the_update_example_decodes() -> None:
    lines = example("update")
    said = dict(fields(lines[:2]))
    data = hexes(lines[2:])
    base = sample_manifest()
    assert base.digest == said["base"]
    preamble = update.decode_preamble(data)
    assert preamble is not None
    found = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base)
    copied, frame = found.operations
    assert (copied, frame) == (Copy(6, 0), Frame(5, codecs.ZSTD, 10))
    world = codecs.decode(codecs.ZSTD, data[preamble.payload_offset :], 5, b"", b"", found.tables)
    digests = [hashlib.sha256(part).hexdigest() for part in (b"hello\n", world)]
    assert manifest.complete(found.target.skeleton, iter(digests)).digest == said["target"]
    assert update.encode_header(base, found.target, found.operations) + data[preamble.payload_offset :] == data


def test_the_offers_example_decodes() -> None:
    lines = example("offers")
    data = hexes(lines)
    found = offers.decode(data)
    told = [
        " ".join([str(version), f"install {o.install_bytes}", *(f"{base}={size}" for base, size in o.updates.items())])
        for version, o in found.items()
    ]
    assert told == [value for key, value in fields(lines) if key == "says"]
    assert offers.encode(found) == data


def test_the_release_record_has_the_digest_and_numbers_that_the_document_says() -> None:
    said = dict(fields(example("release record")))
    found = release_record.decode(said["json"].encode(), said["digest"])
    assert found.metadata["metrics"] == {"auc": 0.93, "rows": 12}
    assert release_record.encode(found).decode() == said["json"]


def test_the_bundle_dictionary_stands_in_the_document() -> None:
    start = TEXT.index('{"_type":"targets","expires":"2027')
    written = TEXT[start : TEXT.index("\n```", start)].replace("\n", "").encode()
    for mark, byte in ((b"\\x01", b"\x01"), (b"\\x02", b"\x02"), (b"\\n", b"\n")):
        written = written.replace(mark, byte)
    assert written == bundle._DICTIONARY


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("entries of a manifest | 100,000", caps.MAX_FILES == 100_000),
        ("manifest, canonical JSON (and skeleton) | 16 MiB", caps.MAX_MANIFEST_BYTES == 16 * caps.MIB),
        ("manifest object | 24 MiB", caps.MAX_MANIFEST_OBJECT_BYTES == 24 * caps.MIB),
        ("all regular files of an artifact | 64 GiB", caps.MAX_ARTIFACT_BYTES == 64 * 1024 * caps.MIB),
        ("chunks of an artifact | 1,000,000", caps.MAX_CHUNKS == 1_000_000),
        ("chunk | 1 to 262,144", caps.TENSOR_CHUNK_BYTES == 262_144),
        ("path, link target (UTF-8) | 1,024", caps.MAX_PATH_BYTES == 1024),
        ("model version | 1 to 2^52 - 1", caps.MAX_VERSION == 2**52 - 1),
        ("operations of an object | 1,000,000", caps.MAX_OPS == 1_000_000),
        ("frame, decoded | 4 MiB", caps.MAX_FRAME_BYTES == 4 * caps.MIB),
        ("payload (frame, encoded) | 263,168", caps.MAX_PAYLOAD_BYTES == 263_168),
        ("base range of a frame | 8 MiB", caps.MAX_BASE_BYTES == 8 * caps.MIB),
        ("prefix of a frame | 4 MiB", caps.MAX_PREFIX_BYTES == 4 * caps.MIB),
        ("base range + prefix + decoded frame | 12 MiB", caps.MAX_LEAN_BYTES == 12 * caps.MIB),
        ("update header, and index, decoded | 24 MiB", caps.MAX_UPDATE_HEADER_BYTES == 24 * caps.MIB),
        ("tables of an object | 4 MiB", caps.MAX_TABLES_BYTES == 4 * caps.MIB),
        ("pack | 64 MiB", caps.MAX_PACK_BYTES == 64 * caps.MIB),
        ("trust bundle, also unfolded; parcel | 1 MiB", caps.MAX_BUNDLE_BYTES == caps.MIB),
        ("probe file | 8 MiB", caps.MAX_PROBE_BYTES == 8 * caps.MIB),
        ("release record | 64 KiB", caps.MAX_RELEASE_RECORD_BYTES == 64 * caps.KIB),
        ("index of an offline medium | 1 MiB", caps.MAX_MEDIA_INDEX_BYTES == caps.MIB),
        ("entries of an export in one file | 65,536", caps.MAX_MEDIA_OBJECTS == 65_536),
        ("requirements of a version | 32, 1,024 bytes", caps.MAX_REQUIREMENTS_BYTES == 1024),
        ("field of requirements of a role | 64 KiB", caps.MAX_ROLE_REQUIREMENTS_BYTES == 64 * caps.KIB),
        ("carried report | 64 KiB", caps.MAX_REPORT_BYTES == 64 * caps.KIB),
    ],
)
def test_the_caps_of_the_document_are_those_of_the_code(row: str, value: bool) -> None:
    assert f"| {row}" in TEXT
    assert value


def test_every_encoding_of_the_code_has_a_row_in_the_document() -> None:
    for number in codecs.ENCODINGS:
        assert re.search(rf"^\| {number} \|(?!.*reserved)", TEXT, re.MULTILINE), number


def test_sections_that_the_code_names_exist() -> None:
    protocol = Path(__file__).parents[2] / "protocol" / "modelsync_protocol"
    headings = " ".join(line.lower() for line in TEXT.splitlines() if line.startswith("#"))
    for path in protocol.glob("*.py"):
        for name in re.findall(r"FORMAT\.md §(\w+)", path.read_text(encoding="utf-8")):
            assert name in headings, f"{path.name} refers to §{name}"


def test_an_index_and_its_header_are_the_bytes_that_the_document_says() -> None:
    said = dict(fields(example("media")))
    found = media.decode(said["index"].encode())
    assert media.encode(found).decode() == said["index"] and found.models == {"anomaly": (3, 2)}
    assert hashlib.sha256(media.header(media.INDEX, len(said["index"]))).hexdigest() == said["header"]


def test_a_report_is_signed_as_the_document_says() -> None:
    said = dict(fields(example("report")))
    line = said["line"].encode() + b"\n"
    found = carried_report.check(line, [said["key"]])
    assert (found.hub, found.device, found.sequence) == ("hub.example", "pi", 7)
    assert carried_report.sign(found, said["key"]) == line


def test_requirements() -> None:
    field, *versions = [line.split(maxsplit=1)[1] if " " in line.strip() else line for line in example("requirements")]
    for line in versions:
        number, *words = line.split()
        pairs = dict(word.split("=", 1) for word in words)
        assert terms.of_version(field, int(number)) == pairs
    assert terms.spell_versions({number: terms.of_version(field, number) for number in range(1, 6)}) == field
