"""Indexes and headers of offline media, and carried reports: one spelling each, bounded, and nothing else is read."""

from __future__ import annotations

import base64
import io
import json
import tarfile

import pytest

from modelsync_protocol import caps, carried_report, media, names
from modelsync_protocol.carried_report import Report
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_protocol.media import Medium

DIGEST = "ab" * 32
KEY, OTHER = base64.b64encode(b"one").decode(), base64.b64encode(b"two").decode()
PATHS = [
    media.INDEX,
    "metadata/timestamp.json",
    "metadata/12.some-model.archive.json",
    names.manifest_object(DIGEST),
    names.pack_object(DIGEST),
    names.update_object(DIGEST, DIGEST, 2),
]


def test_any_tar_program_reads_what_the_headers_say() -> None:
    packed = b"".join(media.header(path, 3) + b"abc".ljust(512, b"\0") for path in PATHS) + media.END
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert [(item.name, item.size, item.isreg()) for item in archive] == [(path, 3, True) for path in PATHS]
    assert [media.read_header(media.header(path, 3)) for path in PATHS] == [(path, 3) for path in PATHS]


def test_a_header_of_any_other_spelling_is_refused() -> None:
    whole = media.header(PATHS[3], 1000)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        with pytest.raises(FormatError):
            media.read_header(bytes(changed))
    with pytest.raises(FormatError):
        media.read_header(whole[:-1])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo(PATHS[3])
        info.size, info.mtime = 1, 1_700_000_000
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(FormatError):
        media.read_header(packed.getvalue()[:512])


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "packs/../manifests/" + DIGEST, "bundles/m", "metadata/.json", f"packs/{DIGEST.upper()}"],
)
def test_no_other_path_is_an_object(path: str) -> None:
    with pytest.raises(FormatError):
        media.check_object(path)
    with pytest.raises(FormatError):
        media.read_header(media.header(path, 1))


@pytest.mark.parametrize("path", PATHS[1:])
def test_no_name_is_beyond_what_fat_can_hold(path: str) -> None:
    for part in media.check_object(path).split("/"):
        assert part == part.lower() and len(part) <= 255 and not set(part) & set('\\:*?"<>|') and part[-1] != "."


def test_an_object_is_too_large_for_an_entry_from_eight_gibibytes_on() -> None:
    assert media.read_header(media.header(PATHS[3], 8 * 1024**3 - 1)) == (PATHS[3], 8 * 1024**3 - 1)
    with pytest.raises(ValueError, match="at most"):
        media.header(PATHS[3], 8 * 1024**3)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"format":2}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{"A":[1]},"store":"ab"}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{"a":[1,2]},"store":"ab"}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{"a":[]},"store":"ab"}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{"a":["1"]},"store":"ab"}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":[],"store":"ab"}',
        b'{"format":1,"issued":"yesterday","models":{},"store":"ab"}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{},"store":"../x"}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{}, "store":"ab"}',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{},"store":"ab"} ',
        b'{"format":1,"issued":"2026-11-27T09:00:00Z","models":{},"more":1,"store":"ab"}',
        b"[" * 100_000,
        b" " * (caps.MAX_MEDIA_INDEX_BYTES + 1),
    ],
)
def test_a_wrong_index_is_refused(document: bytes) -> None:
    with pytest.raises(FormatError):
        media.decode(document)


def test_an_index_reads_as_it_was_written() -> None:
    medium = Medium("ab", "2026-11-27T09:00:00Z", {"b": (3, 1), "a": (caps.MAX_VERSION,)})
    assert media.decode(media.encode(medium)) == medium


def report(**changes: object) -> Report:
    fields = {"hub": "h", "device": "d", "module": None, "sequence": 5, "issued": "2026-11-27T09:00:00Z"}
    return Report(**{**fields, "reported": {"modelsync": {"x": 0.5, "ü": None}}, **changes})  # type: ignore[arg-type]


def test_a_report_is_believed_with_one_of_the_keys_only() -> None:
    data = carried_report.sign(report(), KEY)
    assert carried_report.check(data, [OTHER, KEY]) == carried_report.decode(data) == report()
    with pytest.raises(RefusedError, match="not signed with that device's key"):
        carried_report.check(data, [OTHER])
    with pytest.raises(RefusedError):
        carried_report.check(data, [])
    with pytest.raises(UsageError, match="base64"):
        carried_report.sign(report(), "not base64!")


def test_no_byte_of_a_report_can_be_changed() -> None:
    data = carried_report.sign(report(), KEY)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(RefusedError):
            carried_report.check(bytes(changed), [KEY])
    for cut in range(len(data) - 1):
        with pytest.raises(RefusedError):
            carried_report.check(data[:cut], [KEY])


def test_a_report_without_a_signature_is_not_read() -> None:
    """The well-known holes of JWS: `none`, and whatever else a header might ask for."""
    payload = carried_report.sign(report(), KEY).split(b".")[1]
    for header in ({"alg": "none"}, {"alg": "HS256"}, {"alg": "HS512", "typ": "modelsync-report"}):
        front = base64.urlsafe_b64encode(json.dumps(header, separators=(",", ":")).encode()).rstrip(b"=")
        with pytest.raises(FormatError, match="no report"):
            carried_report.check(front + b"." + payload + b".", [KEY])


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 0},
        {"sequence": True},
        {"sequence": caps.MAX_VERSION + 1},
        {"device": ""},
        {"device": "d" * 129},
        {"module": ""},
        {"issued": "now"},
        {"reported": []},
        {"hub": 5},
    ],
)
def test_a_signed_report_without_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        carried_report.check(carried_report.sign(report(**changes), KEY), [KEY])
