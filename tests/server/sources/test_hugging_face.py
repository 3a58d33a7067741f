"""`hf:`: against a stand-in of the Hub, written by hand from its documentation (huggingface.co/docs/hub/api).

The Hub itself is not reached here: what the Hub does beyond its documentation is not tested.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modelsync_protocol.errors import FormatError, ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.sources import fetching
from tests.support.source_server import Asked, Reply, SourceServer

COMMIT, NEWER = "a" * 40, "b" * 40
MODEL = bytes(range(256)) * 2000


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def hub(server: SourceServer, files: dict[str, bytes], commit: str = COMMIT, repo: str = "acme/anomaly") -> None:
    """The Hub's answers on one repository whose `main` is `commit`."""
    siblings = []
    for path, data in files.items():
        entry = {"rfilename": path, "size": len(data), "blobId": blob_id(data)}
        if len(data) > 1000:
            pointer = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entry |= {"lfs": pointer, "blobId": "0" * 40}
        siblings.append(entry)
        server.table[f"/{repo}/resolve/{commit}/{path}"] = Reply(data, headers={"ETag": f'"{blob_id(data)}"'})
    server.table[f"/api/models/{repo}/revision/main?expand[]=sha"] = Reply.document({"id": repo, "sha": commit})
    listing = {"id": repo, "sha": commit, "siblings": siblings}
    server.table[f"/api/models/{repo}/revision/{commit}?blobs=true"] = Reply.document(listing)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    async with SourceServer() as found:
        hub(found, {"model.onnx": MODEL, "onnx/small.onnx": b"small", "README.md": b"read", ".gitattributes": b"x"})
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


async def refused(text: str, kind: type[ModelsyncError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        async with fetching.fetched(fetching.parse(text)):
            pass
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said
    for word in words:
        assert word in said, said


async def test_a_repository_is_fetched_as_of_one_commit(server: SourceServer) -> None:
    async with fetching.fetched(fetching.parse("hf:acme/anomaly")) as found:
        assert found.path.name == "anomaly"
        files = {p.relative_to(found.path).as_posix(): p.read_bytes() for p in found.path.rglob("*") if p.is_file()}
        kept = found.path
    assert files == {"model.onnx": MODEL, "onnx/small.onnx": b"small", "README.md": b"read"}
    assert found.document["revision"] == COMMIT and found.document["registry"] == server.url
    assert found.document["uri"] == "hf:acme/anomaly@main"
    assert not kept.exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:acme/anomaly@main/model.onnx", "model.onnx"),
        ("hf:acme/anomaly/model.onnx", "model.onnx"),
        (f"hf:acme/anomaly@{COMMIT}/onnx/small.onnx", "small.onnx"),
        ("hf:acme/anomaly@main/onnx", "anomaly"),
    ],
)
async def test_a_path_chooses(server: SourceServer, text: str, name: str) -> None:
    server.table[f"/api/models/acme/anomaly/revision/{COMMIT}?expand[]=sha"] = Reply.document({"sha": COMMIT})
    async with fetching.fetched(fetching.parse(text)) as found:
        assert found.path.name == name
        if found.path.is_file():
            assert found.document["sha256"] == hashlib.sha256(found.path.read_bytes()).hexdigest()
        else:
            assert [p.name for p in found.path.iterdir()] == ["small.onnx"]


async def test_a_revision_that_moves_in_mid_fetch_changes_nothing(server: SourceServer) -> None:
    def move(asked: Asked, reply: Reply) -> None:
        if "blobs=true" in asked.path:
            hub(server, {"model.onnx": b"newer"}, NEWER)

    server.fault = move
    async with fetching.fetched(fetching.parse("hf:acme/anomaly/model.onnx")) as found:
        assert found.path.read_bytes() == MODEL and found.document["revision"] == COMMIT
    async with fetching.fetched(fetching.parse("hf:acme/anomaly/model.onnx")) as found:
        assert found.path.read_bytes() == b"newer" and found.document["revision"] == NEWER


async def test_a_line_that_breaks_is_resumed_where_it_broke(server: SourceServer) -> None:
    cuts = [100_000, 50_000, 200_000]

    def cut(asked: Asked, reply: Reply) -> Reply | None:
        if "resolve" in asked.path and cuts:
            return (
                Reply(reply.body, reply.status, reply.headers, cut=cuts.pop(0))
                if not asked.headers.get("Range")
                else (None)
            )
        return None

    server.fault = cut
    async with fetching.fetched(fetching.parse("hf:acme/anomaly/model.onnx")) as found:
        assert found.path.read_bytes() == MODEL
    ranges = [each.headers["Range"] for each in server.asked if "Range" in each.headers]
    assert ranges and all(int(each.removeprefix("bytes=").rstrip("-")) > 0 for each in ranges)
    assert {each.headers["If-Range"] for each in server.asked if "Range" in each.headers} == {f'"{blob_id(MODEL)}"'}


async def test_a_server_without_ranges_begins_again(server: SourceServer) -> None:
    cuts = [100_000]

    def cut(asked: Asked, reply: Reply) -> Reply | None:
        return Reply(reply.body, 200, {}, cut=cuts.pop()) if "resolve" in asked.path and cuts else None

    server.fault, server.ranges = cut, False
    async with fetching.fetched(fetching.parse("hf:acme/anomaly/model.onnx")) as found:
        assert found.path.read_bytes() == MODEL


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_asks_to_wait_is_waited_for(server: SourceServer, pauses: list[float], status: int) -> None:
    busy = [1, 1]

    def wait(asked: Asked, reply: Reply) -> Reply | None:
        return Reply(status=status, headers={"Retry-After": "7"}) if busy and busy.pop() else None

    server.fault = wait
    async with fetching.fetched(fetching.parse("hf:acme/anomaly/model.onnx")) as found:
        assert found.path.read_bytes() == MODEL
    assert pauses == [7.0, 7.0]


async def test_one_that_asks_for_an_hour_or_never_answers_is_unreachable(
    server: SourceServer, pauses: list[float]
) -> None:
    server.fault = lambda asked, reply: Reply(status=429, headers={"Retry-After": "3600"})
    await refused("hf:acme/anomaly", UnreachableError, "429", "3600 s")
    assert pauses == []
    server.fault = lambda asked, reply: Reply(status=503)
    await refused("hf:acme/anomaly", UnreachableError, "503", "try again")
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    server.fault = lambda asked, reply: Reply(reply.body, cut=0)
    await refused("hf:acme/anomaly", UnreachableError, "can't be reached")


@pytest.mark.parametrize("size", ["same", "shorter", "longer"])
async def test_other_bytes_than_the_listing_says_are_refused(server: SourceServer, size: str) -> None:
    wrong = {"same": b"\1" + MODEL[1:], "shorter": MODEL[:-1], "longer": MODEL + b"\0"}[size]
    server.table[f"/acme/anomaly/resolve/{COMMIT}/model.onnx"] = Reply(wrong)
    kind = UnreachableError if size == "shorter" else RefusedError
    await refused("hf:acme/anomaly/model.onnx", kind)
    server.table[f"/acme/anomaly/resolve/{COMMIT}/onnx/small.onnx"] = Reply(b"smell")
    await refused("hf:acme/anomaly@main/onnx", RefusedError, "digest")


async def test_a_token_goes_to_the_hub_and_not_where_it_redirects(
    server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = f"/acme/anomaly/resolve/{COMMIT}/model.onnx"
    async with SourceServer({"/cdn?signed=1": Reply(MODEL)}, "localhost") as elsewhere:
        server.table[path] = Reply(status=302, headers={"Location": f"{elsewhere.url}/cdn?signed=1"})
        async with fetching.fetched(fetching.parse("hf:acme/anomaly/model.onnx")) as found:
            assert found.path.read_bytes() == MODEL
            assert "hf_secret" not in str(found.document)
        assert {each.secret for each in server.asked} == {"Bearer hf_secret"}
        assert [each.secret for each in elsewhere.asked] == [""]


async def test_a_token_of_a_login_is_found(server: SourceServer, home: Path) -> None:
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_file\n")
    async with fetching.fetched(fetching.parse("hf:acme/anomaly/model.onnx")):
        pass
    assert {each.secret for each in server.asked} == {"Bearer hf_file"}


async def test_redirects_in_a_circle_or_to_files_end(server: SourceServer) -> None:
    path = f"/acme/anomaly/resolve/{COMMIT}/model.onnx"
    server.table[path] = Reply(status=302, headers={"Location": path})
    await refused("hf:acme/anomaly/model.onnx", RefusedError, "circle")
    for bad in ("file:///etc/passwd", "http://[", "ftp://x/y"):
        server.table[path] = Reply(status=302, headers={"Location": bad})
        await refused("hf:acme/anomaly/model.onnx", RefusedError)


async def test_a_gated_model_says_what_to_set(server: SourceServer) -> None:
    server.fault = lambda asked, reply: Reply.document({"error": "gated"}, 401)
    await refused("hf:acme/anomaly", RefusedError, "401", "HF_TOKEN")


@pytest.mark.parametrize("path", ["../outside", "/etc/cron.d/x", "a/../../b", "a\\b", "con", "x\0y", "a//b"])
async def test_names_that_lead_out_are_refused(server: SourceServer, path: str) -> None:
    listing = {"sha": COMMIT, "siblings": [{"rfilename": path, "size": 1, "blobId": "0" * 40}] * 2}
    server.table[f"/api/models/acme/anomaly/revision/{COMMIT}?blobs=true"] = Reply.document(listing)
    server.fault = lambda asked, reply: Reply(b"x") if "resolve" in asked.path else None
    await refused("hf:acme/anomaly", FormatError)


async def test_gigantic_listings_and_sizes_are_refused_before_anything_is_fetched(
    server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [{"rfilename": f"f{n}", "size": 1, "blobId": "0" * 40} for n in range(100_001)]
    huge = [{"rfilename": "f", "size": 1 << 50, "blobId": "0" * 40}]
    for siblings, word in ((many, "files"), (huge, "bytes")):
        listing = {"sha": COMMIT, "siblings": siblings}
        server.table[f"/api/models/acme/anomaly/revision/{COMMIT}?blobs=true"] = Reply.document(listing)
        await refused("hf:acme/anomaly", UsageError, word)
    assert not [path for path in server.paths() if "resolve" in path]
    monkeypatch.setattr("modelsync_server.sources.hugging_face._MOST_LISTING_BYTES", 1 << 20)
    server.fault = lambda asked, reply: Reply(b" " * (2 << 20)) if "blobs" in asked.path else None
    await refused("hf:acme/anomaly", RefusedError, "answers with more than")


async def test_nonsense_from_the_hub_is_one_sentence(server: SourceServer) -> None:
    for body in (b"", b"<html>", b"[]", b"{}", b'{"sha": 7}', b"[" * 100_000):
        server.fault = lambda asked, reply, body=body: Reply(body)
        await refused("hf:acme/anomaly", UnreachableError)
    compressed = Reply(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    server.fault = lambda asked, reply: compressed
    await refused("hf:acme/anomaly", RefusedError, "compressed")
    server.fault = None
    await refused("hf:acme/other", UsageError, "no such thing")
    await refused("hf:acme/anomaly/nope.onnx", UsageError, "nope.onnx")


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/@x", "hf:../x", "hf:acme/x@", "hf:acme/x@a b", "hf:-x/y"])
def test_addresses_that_name_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="names no model"):
        fetching.parse(text)
