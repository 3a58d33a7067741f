"""`git+…` and git-lfs pointers: real repositories, git's real LFS program, and a scripted server of its batch API."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelsync_protocol.errors import FormatError, ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server import create_store, open_store
from modelsync_server.sources import fetching, lfs
from tests.support.source_server import Asked, Reply, SourceServer
from tests.support.tools import needs

MODEL = bytes(range(256)) * 1000
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:" + hashlib.sha256(MODEL).hexdigest().encode() + b"\nsize %d\n" % len(MODEL)
)


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, "-C", str(folder), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(folder: Path, files: dict[str, bytes]) -> Path:
    """A repository with these files in one commit on `main`, tagged v1."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, files)
    git(folder, "tag", "-a", "v1", "-m", "v1")
    return folder


def commit(folder: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        git(folder, "add", "--", name)
    git(folder, "commit", "-q", "-m", "more")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    needs("git")
    return repository(tmp_path / "models.git", {"a/model.onnx": MODEL, "a/deep/labels.txt": b"x", "README.md": b"r"})


async def files_of(text: str) -> dict[str, bytes]:
    async with fetching.fetched(fetching.parse(text)) as found:
        if found.path.is_file():
            return {found.path.name: found.path.read_bytes()}
        return {p.relative_to(found.path).as_posix(): p.read_bytes() for p in found.path.rglob("*") if p.is_file()}


async def refused(text: str, kind: type[ModelsyncError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        await files_of(text)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


async def test_a_path_of_a_revision_is_fetched_by_its_commit(models: Path) -> None:
    first = git(models, "rev-parse", "HEAD")
    newer = commit(models, {"a/model.onnx": b"newer"})
    url = f"git+file://{models}"
    assert await files_of(f"{url}//a/model.onnx@v1") == {"model.onnx": MODEL}
    assert await files_of(f"{url}//a@v1") == {"model.onnx": MODEL, "deep/labels.txt": b"x"}
    assert await files_of(f"{url}//a/model.onnx") == {"model.onnx": b"newer"}
    assert await files_of(f"{url}//a/model.onnx@{first}") == {"model.onnx": MODEL}
    assert sorted(await files_of(url)) == ["README.md", "a/deep/labels.txt", "a/model.onnx"]
    assert (await fetching.parse(f"{url}//a@v1").resolve()).revision == first
    assert (await fetching.parse(f"{url}//a@main").resolve()).revision == newer
    async with fetching.fetched(fetching.parse(f"{url}//a@v1")) as found:
        assert found.document["uri"] == "git+file:models.git//a@v1"
        assert str(models.parent) not in str(found.document), "a path of this machine is not signed"
    await refused(f"{url}//a@nope", UsageError, "nope")
    await refused(f"{url}//nothing@v1", UsageError, "nothing")
    await refused(f"git+file://{models}-gone//a", UsageError, "git refuses")


async def test_a_branch_that_moves_in_mid_publish_changes_nothing(models: Path) -> None:
    source = fetching.parse(f"git+file://{models}//a/model.onnx@main")
    resolved = await source.resolve()
    commit(models, {"a/model.onnx": b"newer"})
    async with fetching.fetched(source, resolved) as found:
        assert found.path.read_bytes() == MODEL and found.document["revision"] == resolved.revision


async def test_links_and_submodules_are_refused_and_hooks_do_not_run(models: Path, tmp_path: Path) -> None:
    (models / "b").mkdir()
    (models / "b" / "link").symlink_to("/etc/passwd")
    git(models, "add", "b")
    commit(models, {"b/.gitattributes": b"* filter=evil", "b/ok": b"ok"})
    await refused(f"git+file://{models}//b", RefusedError, "link")
    assert await files_of(f"git+file://{models}//b/ok") == {"ok": b"ok"}


@pytest.mark.parametrize(
    "text",
    [
        "git+ext://sh -c touch",
        "git+https://user:password@host/x.git//a",
        "git+https://token@host/x.git//a",
        "git+https://host/x.git//a/../../b",
        "git+https://host/x.git//a@-x",
        "git+file:///x//.git/config",
    ],
)
def test_addresses_that_are_dangerous_or_hold_secrets_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        fetching.parse(text)
    assert "password@" not in str(caught.value) and "token@" not in str(caught.value)


def test_an_address_of_ssh_may_name_a_user() -> None:
    assert fetching.parse("git+ssh://git@host/org/repo.git//a@v1").uri == "git+ssh://git@host/org/repo.git//a@v1"
    assert fetching.parse("git+ssh://git@host/org/repo.git").uri == "git+ssh://git@host/org/repo.git"


async def test_lfs_objects_come_by_the_real_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("git", "git-lfs")
    work = repository(tmp_path / "work", {"README.md": b"r"})
    git(work, "lfs", "install", "--local")
    git(work, "lfs", "track", "*.onnx")
    commit(work, {".gitattributes": (work / ".gitattributes").read_bytes(), "m/model.onnx": MODEL, "m/x.txt": b"x"})
    bare = tmp_path / "models.git"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(bare))
    git(work, "remote", "add", "origin", f"file://{bare}")
    git(work, "push", "-q", "origin", "main")
    assert lfs.pointer(work / "m" / "x.txt") is None
    assert await files_of(f"git+file://{bare}//m@main") == {"model.onnx": MODEL, "x.txt": b"x"}
    # A clone whose objects were not pulled: what is published is what the pointer means.
    clone = tmp_path / "clone"
    monkeypatch.setenv("GIT_LFS_SKIP_SMUDGE", "1")
    git(tmp_path, "clone", "-q", f"file://{bare}", str(clone))
    monkeypatch.delenv("GIT_LFS_SKIP_SMUDGE")
    pointer = clone / "m" / "model.onnx"
    assert lfs.pointer(pointer) == lfs.Pointer(hashlib.sha256(MODEL).hexdigest(), len(MODEL))
    for path in (pointer, clone / "m"):
        async with fetching.smudged(path) as found:
            assert found is not None
            target = found.path / "model.onnx" if path.is_dir() else found.path
            assert target.read_bytes() == MODEL and target.name == "model.onnx"
    assert lfs.pointer(pointer) is not None, "the clone is as it was"


async def test_what_is_no_pointer_is_left_alone(tmp_path: Path) -> None:
    for data in (b"", MODEL, POINTER + b"x" * 2000, POINTER.replace(b"sha256", b"sha1"), POINTER[:-1]):
        (tmp_path / "file").write_bytes(data)
        async with fetching.smudged(tmp_path / "file") as found:
            assert found is None
    async with fetching.smudged(tmp_path / "gone") as found:
        assert found is None


class Batch:
    """A repository whose LFS server is scripted, on a machine without git-lfs."""

    def __init__(self, server: SourceServer, file: Path) -> None:
        self.server, self.file = server, file
        oid = hashlib.sha256(MODEL).hexdigest()
        self.action = {"href": f"{server.url}/object?sig=1", "header": {"Authorization": "Bearer of-this-object"}}
        self.answer({"oid": oid, "size": len(MODEL), "actions": {"download": self.action}})
        server.table["/object?sig=1"] = Reply(MODEL)

    def answer(self, entry: object) -> None:
        reply = Reply.document({"transfer": "basic", "objects": [entry]})
        self.server.table["POST /acme/models.git/info/lfs/objects/batch"] = reply

    async def bytes(self) -> bytes:
        async with fetching.smudged(self.file) as found:
            assert found is not None
            return found.path.read_bytes()


@pytest.fixture
async def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Batch]:
    needs("git")
    (tmp_path / "bin").mkdir()
    for name in ("git", "sh"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    async with SourceServer() as server:
        work = repository(tmp_path / "work", {"model.onnx": POINTER})
        git(work, "remote", "add", "origin", f"{server.url}/acme/models")
        yield Batch(server, work / "model.onnx")


async def test_without_the_program_the_batch_api_is_asked(batch: Batch, home: Path) -> None:
    (home / ".gitconfig").write_text('[credential]\n  helper = "!f() { echo username=me; echo password=pass; }; f"\n')
    assert await batch.bytes() == MODEL
    asked, fetched = batch.server.asked
    assert asked.secret.startswith("Basic ") and asked.headers["Content-Type"] == "application/vnd.git-lfs+json"
    assert fetched.secret == "Bearer of-this-object"


async def test_the_headers_of_an_object_do_not_follow_a_redirect(batch: Batch) -> None:
    async with SourceServer({"/elsewhere": Reply(MODEL)}) as other:
        batch.server.table["/object?sig=1"] = Reply(status=302, headers={"Location": f"{other.url}/elsewhere"})
        assert await batch.bytes() == MODEL
        assert [each.secret for each in other.asked] == [""]


async def test_an_object_that_breaks_off_is_resumed(batch: Batch) -> None:
    script = [100_000]

    def cut(asked: Asked, reply: Reply) -> Reply | None:
        return Reply(reply.body, cut=script.pop()) if asked.path.startswith("/object") and script else None

    batch.server.fault = cut
    assert await batch.bytes() == MODEL
    assert batch.server.asked[-1].headers["Range"].startswith("bytes=")


async def test_lies_of_an_lfs_server_are_refused(batch: Batch) -> None:
    batch.server.table["/object?sig=1"] = Reply(MODEL[:-1] + b"?")
    with pytest.raises(RefusedError, match="digest"):
        await batch.bytes()
    oid = hashlib.sha256(MODEL).hexdigest()
    for entry in (
        {"oid": oid, "error": {"code": 404, "message": "Object does not exist"}},
        {"oid": oid},
        {"oid": "f" * 64, "actions": {}},
        {"oid": oid, "actions": {"download": {"href": "file:///etc/passwd"}}},
        7,
    ):
        batch.answer(entry)
        with pytest.raises((UsageError, UnreachableError)) as caught:
            await batch.bytes()
        assert str(caught.value).endswith(".")


def test_names_of_a_hostile_tree_are_refused() -> None:
    from modelsync_server.sources.git import _entry

    with pytest.raises(RefusedError):
        _entry("120000 blob " + "a" * 40 + "       4\tlink")
    with pytest.raises(RefusedError):
        _entry("160000 commit " + "a" * 40 + "       -\tsub")
    with pytest.raises(FormatError):
        from modelsync_server.sources.port import Scratch

        Scratch(Path("/nowhere")).place("files/x/../../y")


async def test_git_does_not_run_in_a_strangers_upload(tmp_path: Path) -> None:
    """Settings of a repository name commands: an upload with a repository in it would choose what runs here."""
    needs("git")
    create_store(tmp_path / "store", keys=tmp_path / "keys")
    upload = repository(tmp_path / "upload", {"model.onnx": POINTER})
    git(upload, "config", "credential.helper", f"!touch {tmp_path}/ran; false")
    git(upload, "remote", "add", "origin", "http://127.0.0.1:1/x")
    store = open_store(tmp_path / "store", keys=tmp_path / "keys")
    release = await store.aio.publish("anomaly", upload / "model.onnx", untrusted=True)
    assert release.size == len(POINTER) and not (tmp_path / "ran").exists()
    assert release.metadata == {}


async def test_what_is_not_installed_is_named_with_what_installs_it(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    await refused(f"dvc:{models}//a/model.onnx@{'a' * 40}", UsageError, "modelsync-server[dvc]")
    await refused(f"git+file://{models}//a@v1", UsageError, "git is not installed")


@pytest.mark.parametrize("text", ["dvc:", "dvc:repo//", "dvc:a/../b", "dvc:-x//y", "dvc:https://me:pw@h/r.git//x"])
def test_dvc_addresses_that_name_nothing_or_hold_secrets(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        fetching.parse(text)
    assert "pw@" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "may_help"),
    [
        (b"fatal: could not read Username for 'http://127.0.0.1:44293': terminal prompts disabled", False),
        (b"fatal: couldn't find remote ref 4290", False),
        (b"error: The requested URL returned error: 429", True),
        (b"error: The requested URL returned error: 503", True),
        (b"error: The requested URL returned error: 404", False),
        (b"fatal: unable to access: Could not resolve host: git.example", True),
    ],
)
def test_whether_trying_again_may_help_is_read_from_the_status_not_from_a_port(said: bytes, may_help: bool) -> None:
    from modelsync_server.sources import programs

    assert bool(programs._LINE.search(said)) is may_help
