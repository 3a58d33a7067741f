"""`oci:`: against Debian's docker-registry, and against a scripted one for what a real registry does seldom."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard

from modelsync_protocol.errors import FormatError, ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server import open_store as library_store
from modelsync_server.sources import archives, fetching
from modelsync_server.sources.port import Scratch
from modelsync_server.store import open_store
from modelsync_server.triggers.source_watch import SourceWatch
from tests.support.oci_registry import PASSWORD, USER, WEIGHT, artifact, descriptor, registry, tarball
from tests.support.shop import Shop
from tests.support.source_server import Asked, Reply, SourceServer
from tests.support.tools import needs

MODEL = bytes(range(256)) * 1500


def served(server: SourceServer, manifest: bytes, *blobs: bytes, tag: str = "v1") -> str:
    """An artifact acme/anomaly at a scripted registry; its digest."""
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    reply = Reply(manifest, headers={"Docker-Content-Digest": digest})
    server.table[f"/v2/acme/anomaly/manifests/{tag}"] = server.table[f"/v2/acme/anomaly/manifests/{digest}"] = reply
    for blob in blobs:
        server.table[f"/v2/acme/anomaly/blobs/sha256:{hashlib.sha256(blob).hexdigest()}"] = Reply(blob)
    return digest


@pytest.fixture
async def server() -> AsyncIterator[SourceServer]:
    async with SourceServer() as found:
        served(found, artifact([descriptor(f"{WEIGHT}.raw", MODEL, path="model.onnx")]), MODEL)
        yield found


def address(server: SourceServer, reference: str = ":v1") -> str:
    return f"oci:127.0.0.1:{server.port}/acme/anomaly{reference}"


async def files_of(text: str) -> dict[str, bytes]:
    async with fetching.fetched(fetching.parse(text)) as found:
        if found.path.is_file():
            return {found.path.name: found.path.read_bytes()}
        return {p.relative_to(found.path).as_posix(): p.read_bytes() for p in found.path.rglob("*") if p.is_file()}


async def refused(text: str, kind: type[ModelsyncError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        await files_of(text)
    assert str(caught.value).endswith(".")
    for word in words:
        assert word in str(caught.value), caught.value


async def test_artifacts_of_all_kinds_from_a_real_registry(tmp_path: Path) -> None:
    """ModelPack raw, tar, gzip and zstd; KitOps; ORAS; documents and data sets stay there."""
    needs("docker-registry")
    packed = tarball({"model.onnx": MODEL, "labels/en.txt": b"a\nb\n"})
    zipped = tarball({"model.onnx": MODEL}, gz=True)
    pressed = zstandard.compress(packed)
    document = tarball({"README.md": b"read me"})
    cases = {
        "raw": ([descriptor(f"{WEIGHT}.raw", MODEL, path="deep/model.onnx")], [MODEL], {"model.onnx": MODEL}),
        "tar": (
            [
                descriptor(f"{WEIGHT}.tar", packed, path="x"),
                descriptor("application/vnd.cncf.model.doc.v1.tar", document),
            ],
            [packed, document],
            {"model.onnx": MODEL, "labels/en.txt": b"a\nb\n"},
        ),
        "zstd": (
            [descriptor(f"{WEIGHT}.tar+zstd", pressed)],
            [pressed],
            {"model.onnx": MODEL, "labels/en.txt": b"a\nb\n"},
        ),
        "kit": (
            [
                descriptor("application/vnd.kitops.modelkit.model.v1.tar+gzip", zipped),
                descriptor("application/vnd.kitops.modelkit.dataset.v1.tar", document),
            ],
            [zipped, document],
            {"model.onnx": MODEL},
        ),
        "oras": (
            [
                descriptor("application/octet-stream", MODEL, title="model.onnx"),
                descriptor("text/plain", b"x", title="labels.txt"),
            ],
            [MODEL, b"x"],
            {"model.onnx": MODEL, "labels.txt": b"x"},
        ),
    }
    with registry(tmp_path) as real:
        for tag, (layers, blobs, due) in cases.items():
            digest = real.push("acme/anomaly", tag, artifact(layers), *blobs)
            text = f"oci:{real.host}/acme/anomaly:{tag}"
            assert await files_of(text) == due, tag
            assert await files_of(f"oci:{real.host}/acme/anomaly@{digest}") == due
            resolved = await fetching.parse(text).resolve()
            assert (resolved.registry, resolved.revision) == (real.host, digest)
        await refused(f"oci:{real.host}/acme/anomaly:nope", UsageError, "nope")


async def test_a_real_registry_with_a_password_reads_dockers_login(tmp_path: Path, home: Path) -> None:
    needs("docker-registry")
    with registry(tmp_path, password=True) as real:
        real.push("acme/anomaly", "v1", artifact([descriptor(f"{WEIGHT}.raw", MODEL, path="model.onnx")]), MODEL)
        text = f"oci:{real.host}/acme/anomaly:v1"
        await refused(text, RefusedError, "docker login")
        (home / ".docker").mkdir()
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (home / ".docker" / "config.json").write_text(json.dumps({"auths": {real.host: {"auth": auth}}}))
        assert await files_of(text) == {"model.onnx": MODEL}


async def test_a_credential_helper_is_asked(
    server: SourceServer, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(f'#!/bin/sh\nread server\necho \'{{"Username":"{USER}","Secret":"{PASSWORD}"}}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (home / "config.json").write_text(json.dumps({"credHelpers": {f"127.0.0.1:{server.port}": "test"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(home))

    def basic(asked: Asked, reply: Reply) -> Reply | None:
        return None if asked.secret else Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})

    server.fault = basic
    assert await files_of(address(server)) == {"model.onnx": MODEL}


async def test_a_challenge_for_a_token_is_met_and_the_password_goes_to_the_realm_only(
    server: SourceServer, home: Path
) -> None:
    scope = "repository:acme/anomaly:pull"
    token = f"/token?scope={scope}&service=registry.test"
    tokens = ["one", "two"]

    def guard(asked: Asked, reply: Reply) -> Reply | None:
        if asked.secret == f"Bearer {tokens[0]}":
            if "/blobs/" in asked.path and len(tokens) == 2:
                tokens.pop(0)  # it expires in mid-publish
            else:
                return None
        realm = f'Bearer realm="{issuer.url}/token",service="registry.test",scope="{scope}"'
        return Reply.document({"errors": [{"message": "who?"}]}, 401, **{"WWW-Authenticate": realm})

    (home / ".docker").mkdir()
    auth = base64.b64encode(b"me:pass").decode()
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {f"127.0.0.1:{server.port}": {"auth": auth}}}))
    async with SourceServer({token: Reply()}) as issuer:
        issuer.fault = lambda asked, reply: Reply.document({"token": tokens[0], "expires_in": 60})
        server.fault = guard
        assert await files_of(address(server)) == {"model.onnx": MODEL}
        assert {each.secret for each in issuer.asked} == {f"Basic {auth}"}
        assert not [each for each in server.asked if each.secret.startswith("Basic")]
        assert {each.path for each in issuer.asked} == {token}


async def test_a_redirected_blob_is_fetched_without_the_token(server: SourceServer, home: Path) -> None:
    (home / ".docker").mkdir()
    auth = base64.b64encode(b"me:pass").decode()
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {f"127.0.0.1:{server.port}": {"auth": auth}}}))
    async with SourceServer({"/storage?sig=1": Reply(MODEL)}) as storage:

        def redirect(asked: Asked, reply: Reply) -> Reply | None:
            if not asked.secret:
                return Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
            here = {"Location": f"{storage.url}/storage?sig=1"}
            return Reply(status=307, headers=here) if "/blobs/" in asked.path else None

        server.fault = redirect
        assert await files_of(address(server)) == {"model.onnx": MODEL}
        assert [each.secret for each in storage.asked] == [""]


async def test_a_challenge_of_the_place_redirected_to_is_not_met(server: SourceServer) -> None:
    realm = 'Bearer realm="http://127.0.0.1:1/token"'
    async with SourceServer() as storage:
        storage.fault = lambda asked, reply: Reply(status=401, headers={"WWW-Authenticate": realm})
        server.fault = lambda asked, reply: (
            Reply(status=307, headers={"Location": f"{storage.url}/x"}) if "/blobs/" in asked.path else None
        )
        await refused(address(server), RefusedError, "401")


async def test_a_tag_that_moves_in_mid_publish_changes_nothing(server: SourceServer) -> None:
    newer = b"newer"

    def move(asked: Asked, reply: Reply) -> None:
        if "/manifests/sha256" in asked.path:
            served(server, artifact([descriptor(f"{WEIGHT}.raw", newer, path="model.onnx")]), newer)

    server.fault = move
    assert await files_of(address(server)) == {"model.onnx": MODEL}
    assert await files_of(address(server)) == {"model.onnx": newer}


async def test_digests_are_held_against_what_comes(server: SourceServer) -> None:
    digest = (await fetching.parse(address(server)).resolve()).revision
    server.fault = lambda asked, reply: Reply(reply.body[:-1] + b"?") if "/blobs/" in asked.path else None
    await refused(address(server), RefusedError, "digest")
    server.fault = lambda asked, reply: Reply(reply.body + b" ") if "/manifests/sha256" in asked.path else None
    await refused(address(server), RefusedError, "manifest")
    await refused(address(server, f"@{digest}"), RefusedError, "manifest")
    server.fault = lambda asked, reply: Reply(reply.body)  # a registry that does not say digests
    assert await files_of(address(server)) == {"model.onnx": MODEL}


async def test_a_blob_that_breaks_off_is_resumed_and_429_is_waited_for(
    server: SourceServer, pauses: list[float]
) -> None:
    script = [Reply(MODEL, cut=100_000), Reply(status=429, headers={"Retry-After": "3"})]
    server.fault = lambda asked, reply: script.pop(0) if "/blobs/" in asked.path and script else None
    assert await files_of(address(server)) == {"model.onnx": MODEL}
    assert 3.0 in pauses
    begin = int(server.asked[-1].headers["Range"].removeprefix("bytes=").rstrip("-"))
    assert 0 < begin <= 100_000


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{}",
        b'{"layers": []}',
        b'{"layers": [7]}',
        b'{"layers": [{"mediaType": "x", "digest": "sha256:no", "size": 1}]}',
        b'{"manifests": [{"digest": "x"}, {"digest": "y"}]}',
        artifact([descriptor("application/vnd.cncf.model.doc.v1.raw", b"only words", path="README.md")]),
    ],
)
async def test_what_is_no_model_is_one_sentence(server: SourceServer, manifest: bytes) -> None:
    served(server, manifest)
    with pytest.raises((UsageError, RefusedError)) as caught:
        await files_of(address(server))
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a\\b", "nul", "x\n"])
async def test_layers_with_names_that_lead_out_are_refused(server: SourceServer, name: str) -> None:
    served(server, artifact([descriptor(f"{WEIGHT}.raw", MODEL, path=name)]), MODEL)
    await refused(address(server), FormatError)


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


@pytest.mark.parametrize(
    "archive",
    [
        tarball({"../x": b"x"}),
        tarball({"/etc/x": b"x"}),
        tarball({"a/../../x": b"x"}),
        tarball({}, member("x", tarfile.SYMTYPE, "/etc/passwd")),
        tarball({}, member("x", tarfile.SYMTYPE, "y")),
        tarball({}, member("x", tarfile.LNKTYPE, "/etc/passwd")),
        tarball({}, member("x", tarfile.FIFOTYPE)),
        tarball({}, member("x", tarfile.CHRTYPE)),
        tarball({"x": b"1", "x/y": b"2"}),
        tarball({"x" * 3000: b"1"}),
        tarball({"model.onnx": MODEL})[:5000],
        tarball({"model.onnx": MODEL}, gz=True)[:200],
        b"no archive at all" * 100,
    ],
    ids=lambda data: hashlib.sha256(data).hexdigest()[:8],
)
@pytest.mark.parametrize("compression", ["", "gzip"])
def test_archives_that_lead_out_or_are_damaged_are_refused(tmp_path: Path, archive: bytes, compression: str) -> None:
    place = tmp_path / "scratch" / "inside"
    place.mkdir(parents=True)
    blob = tmp_path / "blob"
    blob.write_bytes(archive)
    try:
        found = archives.unpack(blob, compression, Scratch(place), "model")
    except RefusedError as error:
        assert str(error).endswith(".")
    else:
        assert found == [], "nothing of it is taken"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blob", "scratch"]
    assert [path.name for path in place.parent.iterdir()] == ["inside"]
    assert not [path for path in place.rglob("*") if path.is_symlink()]


def test_an_archive_that_unfolds_beyond_the_bounds_ends_there(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(tarball({"zeros": bytes(30 << 20)}, gz=True))
    assert blob.stat().st_size < 100_000
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(UsageError, match="more than"):
        archives.unpack(blob, "gzip", Scratch(place, most_bytes=1 << 20))
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) <= 1 << 20
    blob.write_bytes(tarball({f"f{number}": b"" for number in range(50)}))
    with pytest.raises(UsageError, match="files"):
        archives.unpack(blob, "", Scratch(tmp_path / "place", most_files=49))


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    blob = tmp_path / "blob"
    blob.write_bytes(header.tobuf())
    with pytest.raises(FormatError, match="header"):
        archives.unpack(blob, "", Scratch(tmp_path))


async def test_an_unreachable_registry_says_so(server: SourceServer) -> None:
    await refused("oci:127.0.0.1:1/acme/anomaly:v1", UnreachableError, "127.0.0.1:1")


@pytest.mark.parametrize(
    "text", ["oci:", "oci:host", "oci:host/UP:v", "oci:host/a@sha256:1", "oci:host/a:b:c", "oci:h/../x"]
)
def test_addresses_that_name_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="names no artifact"):
        fetching.parse(text)


async def test_a_watch_asks_by_one_head_and_publishes_when_the_tag_moves(server: SourceServer, tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    told: list[int] = []
    watch = SourceWatch(
        fetching.parse(address(server)),
        open_store(str(shop.path)),
        str(shop.keys),
        "anomaly",
        lambda made, resolved: told.append(made.version),
        lambda sentence: None,
        tmp_path / "memory.json",
    )
    await watch.look()
    server.asked.clear()
    await watch.look()
    assert [each.method for each in server.asked] == ["HEAD"]
    newer = b"newer"
    served(server, artifact([descriptor(f"{WEIGHT}.raw", newer, path="model.onnx")]), newer)
    await watch.look()
    assert told == [1, 2]


async def test_what_is_fetched_is_examined_as_a_strangers_upload(
    server: SourceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reader that is taken over: it dies, the publisher goes on and says one sentence."""
    hostile = [sys.executable, "-m", "tests.support.hostile_examiner", "on"]
    monkeypatch.setattr("modelsync_server.examination.examination.COMMAND", hostile)
    statement = json.dumps("import os; os._exit(9)").encode()
    served(server, artifact([descriptor(f"{WEIGHT}.raw", statement, path="model.onnx")]), statement)
    shop = await Shop.open(tmp_path)
    store = library_store(shop.path, keys=shop.keys)
    with pytest.raises(UsageError, match="the upload is refused"):
        await store.aio.publish("anomaly", address(server))
