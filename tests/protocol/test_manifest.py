"""The manifest: one spelling, paths and links that stay inside, nothing that a device could trip over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol import canonical, caps, manifest
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import EmptyDirectory, Entry, Link, Manifest, RegularFile

ZERO = "0" * 64
PART = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["Cc"]), min_size=1, max_size=5
)
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)


def usable(path: str) -> bool:
    try:
        EmptyDirectory(path)
    except FormatError:
        return False
    return True


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests with entries of every kind."""
    paths = draw(st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join).filter(usable), max_size=8, unique=True))
    taken: list[str] = []
    for path in sorted(paths, key=str.encode):
        if not any(path.startswith(other + "/") or other.startswith(path + "/") for other in taken):
            taken.append(path)
    entries: list[Entry] = []
    for path in taken:
        kind = draw(st.integers(0, 3))
        if kind == 0:
            entries.append(EmptyDirectory(path))
        elif kind == 1:
            entries.append(Link(path, "../" * path.count("/") + "some/where"))
        else:
            sizes = draw(st.lists(st.integers(1, caps.TENSOR_CHUNK_BYTES), max_size=4))
            entries.append(
                RegularFile(path, draw(st.integers(0, 0o777)), tuple(sizes), tuple(draw(DIGEST) for _ in sizes))
            )
    files = [entry.path for entry in entries if isinstance(entry, RegularFile)]
    probe = draw(st.sampled_from([None, *files]))
    return Manifest(tuple(entries), draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)), probe)


@given(manifests())
def test_a_manifest_is_read_back_exactly(made: Manifest) -> None:
    try:
        encoded = made.encoded
    except FormatError:
        return  # a lone surrogate in a requirement has no canonical form
    found = manifest.decode(encoded)
    assert (found.entries, dict(found.requires), found.probe) == (made.entries, dict(made.requires), made.probe)
    assert found.digest == made.digest
    digests = (digest for _, _, digest in made.chunks())
    assert manifest.complete(made.skeleton, digests).encoded == encoded
    assert found.size == sum(size for _, size, _ in found.chunks())
    assert list(found.chunk_ends()) == [offset + size for offset, size, _ in found.chunks()]


def document(**changes: Any) -> dict[str, Any]:
    """A good manifest's JSON, changed."""
    good = {
        "format": 1,
        "files": [{"path": "a/b.bin", "mode": 0o644, "sizes": [3], "digests": [ZERO]}],
        "probe": None,
        "requires": {},
    }
    return {**good, **changes}


def entry(**changes: Any) -> list[dict[str, Any]]:
    found = {**document()["files"][0], **changes}
    return [{key: value for key, value in found.items() if value is not ...}]


def link(path: str, target: str) -> dict[str, Any]:
    return {"path": path, "link": target}


BAD_PATHS = [
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "./a",
    "a/./b",
    "a/../b",
    "../a",
    "a/..",
    "a\\b",
    "a\nb",
    "a\0b",
    "a\x7fb",
    "con",
    "NUL",
    "a/Com1.txt",
    "lpt9",
    "aux.onnx",
    "x" * 256,
    "/".join(["y" * 200] * 6),
    "é" * 600,
    5,
    None,
    ["a"],
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: repr(path)[:20])
def test_unsafe_paths_are_refused(path: object) -> None:
    for files in (entry(path=path), [{"path": path, "directory": True}], [{"path": path, "link": "a"}]):
        with pytest.raises(FormatError):
            manifest.decode(canonical.encode(document(files=files)))


BAD_LINKS = [
    ("a", ".."),
    ("a", "../x"),
    ("d/a", "../.."),
    ("d/a", "../../x"),
    ("d/a", "x/../y"),
    ("d/a", "x/../../.."),
    ("a", "/etc/passwd"),
    ("a", ""),
    ("a", "x//y"),
    ("a", "x/"),
    ("a", "./x"),
    ("a", "x/."),
    ("a", "x\\y"),
    ("a", "x\ny"),
    ("a", "é" * 600),
    ("d/a", ".././x"),
]


@pytest.mark.parametrize(("path", "target"), BAD_LINKS)
def test_links_that_leave_the_tree_or_are_not_normalised_are_refused(path: str, target: str) -> None:
    with pytest.raises(FormatError):
        manifest.decode(canonical.encode(document(files=[link(path, target)])))


@pytest.mark.parametrize(
    ("path", "target"), [("a", "."), ("a", "b"), ("d/a", ".."), ("d/e/a", "../../x/y"), ("a", "...")]
)
def test_links_inside_the_tree_are_allowed(path: str, target: str) -> None:
    assert manifest.decode(canonical.encode(document(files=[link(path, target)]))).entries == (Link(path, target),)


@given(st.lists(st.tuples(st.lists(PART, min_size=1, max_size=3), st.lists(st.sampled_from(["..", "a", "b", "c"])))))
def test_no_set_of_links_leads_out_of_the_tree(drawn: list[tuple[list[str], list[str]]]) -> None:
    """Whatever is accepted is followed as a file system would: it never climbs above the root."""
    links: dict[str, str] = {}
    for parts, target in drawn:
        path = "/".join(["a", "b", "c"][len(part) % 3] for part in parts)
        if not any(path.startswith(p + "/") or p.startswith(path + "/") for p in links):
            links[path] = "/".join(target)
    try:
        Manifest(tuple(Link(path, target) for path, target in sorted(links.items())))
    except FormatError:
        return
    for path in links:
        place, rest, hops = path.split("/")[:-1], links[path].split("/"), 0
        while rest and hops < 50:
            part = rest.pop(0)
            if part == "..":
                assert place, f"{path} leaves the tree"
                place.pop()
            elif (here := "/".join([*place, part])) in links:
                rest, hops = links[here].split("/") + rest, hops + 1
            else:
                place.append(part)


@pytest.mark.parametrize(
    "files",
    [
        [link("b", "x"), link("a", "x")],
        [link("a", "x"), link("a", "x")],
        [*entry(path="a"), *entry(path="a/b")],
        [link("a", "x"), *entry(path="a/b")],
        [{"path": "a", "directory": True}, *entry(path="a/b/c")],
        [link("a", "x"), link("a-b", "x"), link("a/b", "x")],
        entry(digests=[]),
        entry(digests=[ZERO, ZERO]),
        entry(digests=["0" * 63]),
        entry(digests=["0" * 63 + "A"]),
        entry(digests=[5]),
        entry(sizes=[0]),
        entry(sizes=[-1]),
        entry(sizes=[caps.TENSOR_CHUNK_BYTES + 1]),
        entry(sizes=["3"]),
        entry(sizes=[True]),
        entry(sizes=3),
        entry(mode=-1),
        entry(mode=0o1777),
        entry(mode=True),
        entry(mode=...),
        entry(digests=...),
        entry(owner="root"),
        [{"path": "a", "directory": 1}],
        [{"path": "a", "directory": False}],
        [{"path": "a", "link": "b", "mode": 1}],
        [{}],
        [[]],
        [None],
        {},
    ],
    ids=lambda files: json.dumps(files)[:60],
)
def test_entries_that_are_not_exactly_one_of_the_three_kinds_are_refused(files: Any) -> None:
    with pytest.raises(FormatError):
        manifest.decode(canonical.encode(document(files=files)))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": "1"},
        {"format": True},
        {"probe": "a"},
        {"probe": {"data": "missing"}},
        {"probe": {"data": "a/b.bin", "more": 1}},
        {"requires": {"a": 1}},
        {"requires": []},
        {"extra": 1},
        {"files": None},
    ],
    ids=str,
)
def test_documents_with_other_keys_or_types_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        manifest.decode(canonical.encode(document(**changes)))


GOOD = canonical.encode(document())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD + b"\n",
        b" " + GOOD,
        GOOD.replace(b'"format":1', b'"format":1.0'),
        GOOD.replace(b'"format":1', b'"format":1e0'),
        GOOD.replace(b'"format":1', b'"format":NaN'),
        GOOD.replace(b'"format":1', b'"format":1,"format":1'),
        GOOD.replace(b'"sizes":[3]', b'"sizes":[3],"sizes":[3]'),
        GOOD.replace(b"420", b"9007199254740993"),
        GOOD.replace(b"420", b"9" * 5000),
        GOOD.replace(b'"a/b.bin"', b'"\\u0061/b.bin"'),
        GOOD.replace(b'"a/b.bin"', b'"\\ud800"'),
        GOOD.replace(b'"a/b.bin"', b'"\xff"'),
        b"[" * 1_000_000,
        b'{"files":' * 100_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_other_spellings_and_what_is_not_strict_json_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        manifest.decode(data)
    with pytest.raises(FormatError):
        manifest.complete(data, None)


def test_counts_over_the_caps_are_refused() -> None:
    with pytest.raises(FormatError, match="16777216"):
        manifest.decode(b" " * (caps.MAX_MANIFEST_BYTES + 1))
    many = ",".join(f'{{"directory":true,"path":"{n:06}"}}' for n in range(caps.MAX_FILES + 1))
    with pytest.raises(FormatError, match="at most 100000"):
        manifest.decode(b'{"files":[%s],"format":1,"probe":null,"requires":{}}' % many.encode())
    sizes = ",".join(["1"] * (caps.MAX_CHUNKS + 1))
    with pytest.raises(FormatError, match="larger than the format allows"):
        manifest.complete(
            b'{"files":[{"mode":420,"path":"a","sizes":[%s]}],"format":1,"probe":null,"requires":{}}' % sizes.encode(),
            None,
        )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_skeleton_takes_exactly_its_chunks_digests(count: int) -> None:
    skeleton = Manifest((RegularFile("a", 0o644, (1, 2), (ZERO, ZERO)),)).skeleton
    with pytest.raises(FormatError):
        manifest.complete(skeleton, iter([ZERO] * count))
