"""What only stores in buckets do: addresses, credentials, proof of conditions, parts, and refusals in our words."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from email.message import Message
from pathlib import Path

import pytest
from aiohttp import web

from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.store import AlreadyExists, ObjectNotFound, bucket, create_store, open_store
from modelsync_server.store.bucket import BucketStore
from modelsync_server.store.bucket_address import BucketAddress, s3_place
from tests.support.cloud_servers import S3RVER_KEY, make_bucket, s3_environment, s3rver
from tests.support.gcs_front import GcsFront
from tests.support.lying_front import LyingFront

SECRET = "very-secret-key"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def place(s3_service: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a publisher with an S3; returns a new bucket's address."""
    _use(monkeypatch, s3_service)
    return f"s3://{make_bucket(s3_service, f'c{secrets.token_hex(8)}')}"


def _use(monkeypatch: pytest.MonkeyPatch, endpoint: str, key: str = SECRET) -> None:
    for variable, value in s3_environment(endpoint, key).items():
        monkeypatch.setenv(variable, value)


def _asked(request: urllib.request.Request | str) -> tuple[Message, bytes]:
    """Headers and body of an answer, by somebody who has no key."""
    with urllib.request.urlopen(request) as answer:
        return answer.headers, answer.read()


def _impatient(url: str) -> BucketStore:
    quick = timedelta(milliseconds=10)
    backoff = {"init_backoff": quick, "max_backoff": quick, "base": 2}
    return BucketStore(
        BucketAddress.parse(url), create=True, retry={"max_retries": 1, "retry_timeout": 3 * quick, "backoff": backoff}
    )


@pytest.mark.parametrize(
    ("url", "prefix"), [("s3://box", ""), ("s3://box/", ""), ("s3://box/a/b", "a/b/"), ("gs://my_box.eu/x/", "x/")]
)
def test_an_address_is_read_and_written_back(url: str, prefix: str) -> None:
    address = BucketAddress.parse(url)
    assert address.prefix == prefix and BucketAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "url", ["s3://", "s3://ab", "s3://Box", "s3://box/../x", "s3://box/.x", "gs://b?X-Sig=s", "s3:x"]
)
def test_what_is_no_address_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        BucketAddress.parse(url)
    assert "X-Sig" not in str(caught.value)


def test_variables_go_before_the_profile_and_the_profile_before_the_machine(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-central-1\n[profile lab]\nregion=auto\nendpoint_url = https://r2.example.com/\n"
        "[profile work]\nsso_session = corp\n"
    )
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = D\naws_secret_access_key = d%s\n"
        "[lab]\naws_access_key_id=L\naws_secret_access_key=l\n"
    )
    files = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    default = s3_place(files)
    assert (default.region, default.key_id, default.secret) == ("eu-central-1", "D", "d%s")
    assert default.host_url == "https://s3.eu-central-1.amazonaws.com"
    lab = s3_place({**files, "AWS_PROFILE": "lab"})
    assert (lab.region, lab.key_id, lab.host_url) == ("auto", "L", "https://r2.example.com")
    named = {
        "AWS_ACCESS_KEY_ID": "V",
        "AWS_SECRET_ACCESS_KEY": "v",
        "AWS_SESSION_TOKEN": "t",
        "AWS_REGION": "us-west-2",
    }
    assert s3_place({**files, **named}).key_id == "V" and s3_place({**files, **named}).token == "t"
    assert s3_place({**files, "AWS_PROFILE": "work"}).profile == "work", "boto3 opens it"
    with pytest.raises(UsageError, match="nobody"):
        s3_place({**files, "AWS_PROFILE": "nobody"})
    for wrong in ({"AWS_REGION": "eu central"}, {"AWS_ENDPOINT_URL_S3": "minio:9000"}, {"AWS_ENDPOINT_URL": "s3://x"}):
        with pytest.raises(UsageError, match="AWS_"):
            s3_place({**files, **wrong})


def test_a_profile_that_boto3_would_open_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[profile work]\nsso_session = corp\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(UsageError, match="export-credentials --profile work"):
        open_store("s3://box")


async def test_a_bucket_that_is_no_store_and_one_that_is_not_there_say_what_to_do(place: str) -> None:
    with pytest.raises(UsageError, match="init"):
        await open_store(place).list("")
    for missing in (open_store("s3://not-there"), create_store("s3://not-there")):
        for call in (
            missing.get("packs/x"),
            missing.create("packs/y", b"y"),
            missing.list(""),
            missing.delete("packs/x"),
        ):
            with pytest.raises(UsageError, match="bucket"):
                await call


async def test_objects_carry_what_a_cdn_may_keep(place: str) -> None:
    store = create_store(place)
    kept = {}
    for path in ("packs/x", "metadata/timestamp.json", "bundles/m", "metadata/1.root.json"):
        await store.create(path, b"x")
        assert isinstance(store, BucketStore)
        headers, _ = _asked(await store.signed_url(path, timedelta(minutes=5)))
        kept[path] = headers["Cache-Control"]
    assert kept["bundles/m"] == kept["metadata/timestamp.json"] == "no-cache"
    assert "immutable" in kept["packs/x"] and "immutable" in kept["metadata/1.root.json"]


@pytest.mark.parametrize(
    ("dropped", "told"), [("If-None-Match", "ignores If-None-Match"), ("If-Match", "ignores If-Match")]
)
async def test_an_s3_that_takes_conditions_and_ignores_them_is_found_out_before_anything_is_written(
    place: str, s3_service: str, monkeypatch: pytest.MonkeyPatch, dropped: str, told: str
) -> None:
    async with LyingFront(s3_service, [dropped]) as front:
        _use(monkeypatch, front.url)
        store = create_store(place)
        for call in (store.create("metadata/1.root.json", b"root"), store.replace("bundles/a", b"x", '"tag"')):
            with pytest.raises(RefusedError, match=told):
                await call
        assert await store.list("") == [], "nothing was written, and the proof's object is not shown"
        front.drops.clear()
        await store.create("packs/x", b"x")  # an honest one of now is not held to what it was


async def test_a_google_that_ignores_generations_is_found_out_too(
    gcs_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with GcsFront(gcs_service, lies=True) as front:
        monkeypatch.setenv("GOOGLE_BASE_URL", front.url)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "testing")
        store = create_store(f"gs://{await front.make_bucket(f'c{secrets.token_hex(8)}')}")
        with pytest.raises(RefusedError, match="ignores"):
            await store.create("packs/x", b"x")
        assert await store.list("") == []


async def test_s3rver_which_lies_in_the_field_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3rver(tmp_path / "s3rver", "box") as endpoint:
        _use(monkeypatch, endpoint, S3RVER_KEY)
        with pytest.raises(RefusedError, match="ignores If-None-Match"):
            await create_store("s3://box").create("packs/x", b"x")
        _use(monkeypatch, endpoint, "wrong")
        with pytest.raises(RefusedError, match="403"):
            await create_store("s3://box").create("packs/x", b"x")


async def test_the_proof_costs_five_requests_once_and_four_later(
    place: str, s3_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LyingFront(s3_service) as front:
        _use(monkeypatch, front.url)
        for expected in (5, 4):
            front.requests.clear()
            store = create_store(f"{place}/a")
            await asyncio.gather(*(store.create(f"packs/{expected}-{number}", b"x") for number in range(3)))
            assert len([path for _, path in front.requests if "/.modelsync" in path]) == expected
        assert not [method for method, _ in front.requests if method == "DELETE"], "deleting takes no permission"
        many = [create_store(f"{place}/b") for _ in range(6)]
        await asyncio.gather(*(store.create(f"packs/{number}", b"x") for number, store in enumerate(many)))


@pytest.mark.parametrize(
    ("status", "code", "expected", "words"),
    [
        (403, "AccessDenied", RefusedError, "permission"),
        (401, "Unauthorized", RefusedError, "renew"),
        (404, "NoSuchKey", ObjectNotFound, "packs/x"),
        (409, "OperationAborted", UnreachableError, "busy"),
        (429, "SlowDown", UnreachableError, "later"),
        (503, "SlowDown", UnreachableError, "later"),
        (501, "NotImplemented", RefusedError, "conditional"),
        (400, "AuthorizationHeaderMalformed", UsageError, "AWS_REGION=eu-west-1"),
        (301, "PermanentRedirect", UsageError, "AWS_REGION"),
        (418, "", RefusedError, "settings"),
    ],
)
async def test_each_refusal_of_the_service_is_told_in_our_words(
    place: str,
    s3_service: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    expected: type[ModelsyncError],
    words: str,
) -> None:
    def answer(request: web.Request) -> web.StreamResponse | None:
        text = f"<Error><Code>{code}</Code><Message>{SECRET}</Message><Region>eu-west-1</Region></Error>"
        return web.Response(status=status, text=text) if request.path.endswith("packs/x") else None

    monkeypatch.setattr(asyncio, "sleep", _no_time)
    async with LyingFront(s3_service, answer=answer) as front:
        _use(monkeypatch, front.url)
        with pytest.raises(ModelsyncError, match=words) as caught:
            await _impatient(place).get("packs/x")
    assert type(caught.value) is expected and SECRET not in str(caught.value)


async def _no_time(_: float) -> None:
    return


async def test_a_service_that_recovers_is_waited_for(
    place: str, s3_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [503, 429, 500]

    def answer(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=left.pop()) if left and request.path.endswith("packs/x") else None

    async with LyingFront(s3_service, answer=answer) as front:
        _use(monkeypatch, front.url)
        store = create_store(place)
        await store.create("packs/x", b"x")
        assert left == [] and await store.get("packs/x") == b"x"


async def test_nobody_there_and_no_credentials_are_told_apart(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(UnreachableError) as caught:
        await _impatient(place).get("packs/x")
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="AWS_PROFILE"):
        await _impatient(place).get("packs/x")


async def test_a_large_object_goes_up_in_parts_once(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_service: str
) -> None:
    _small_parts(monkeypatch)
    big = secrets.token_bytes(13 << 20)
    (tmp_path / "file").write_bytes(big)
    async with LyingFront(s3_service) as front:
        _use(monkeypatch, front.url)
        store = create_store(place)
        await store.create("updates/t/b.v1", tmp_path / "file")
        assert len([path for method, path in front.requests if method == "PUT" and "partNumber" in path]) == 3
        assert await store.get_range("updates/t/b.v1", (5 << 20) - 1, 3) == big[(5 << 20) - 1 : (5 << 20) + 2]
        for again in (b"y" * len(big), tmp_path / "file"):
            with pytest.raises(AlreadyExists):
                await store.create("updates/t/b.v1", again)
        assert await store.get("updates/t/b.v1") == big


async def test_an_upload_that_is_interrupted_leaves_no_parts(
    place: str, monkeypatch: pytest.MonkeyPatch, s3_service: str
) -> None:
    _small_parts(monkeypatch)
    started = asyncio.Event()

    def answer(request: web.Request) -> web.StreamResponse | None:
        if "partNumber=3" in request.raw_path or "partNumber=2&" in request.raw_path:
            started.set()
        return None

    async with LyingFront(s3_service, answer=answer) as front:
        _use(monkeypatch, front.url)
        store = create_store(place)
        upload = asyncio.ensure_future(store.create("updates/t/b.v1", secrets.token_bytes(60 << 20)))
        await started.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert any(method == "DELETE" and "uploadId" in path for method, path in front.requests), "aborted"
        assert await store.list("") == []
    assert b"<Upload>" not in _asked(f"{s3_service}/{place.removeprefix('s3://')}?uploads")[1]


def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "SINGLE_BYTES", 6 << 20)
    monkeypatch.setattr(bucket, "PART_BYTES", 5 << 20)  # S3 takes no smaller ones
    monkeypatch.setattr(bucket, "PARALLEL_PARTS", 1)


async def test_an_empty_object_and_an_empty_file_are_objects(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    store = create_store(place)
    await store.create("packs/a", b"")
    await store.create("packs/b", tmp_path / "empty")
    assert await store.list("packs/") == [("packs/a", 0), ("packs/b", 0)]
    assert await store.get("packs/b") == b"" and await store.get_range("packs/b", 0, 0) == b""


@pytest.mark.long
async def test_more_than_a_page_is_listed(place: str, s3_service: str) -> None:
    box = place.removeprefix("s3://")

    def put(number: int) -> None:
        _asked(urllib.request.Request(f"{s3_service}/{box}/packs/{number:04}", b"x", method="PUT"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(1001)))
    assert [path for path, _ in await create_store(place).list("packs/")] == [f"packs/{n:04}" for n in range(1001)]


async def test_a_signed_url_gives_one_object_to_who_has_no_key(
    place: str,
) -> None:
    store = create_store(place)
    assert isinstance(store, BucketStore)
    await store.create("packs/x", b"x")
    url = await store.signed_url("packs/x", timedelta(minutes=5))
    assert "X-Amz-Expires=300" in url and SECRET not in url.replace("%2F", "/").partition("Credential=")[0]
    assert _asked(url)[1] == b"x"


def test_a_store_is_used_from_one_event_loop_after_another(place: str) -> None:
    store = create_store(place)

    async def many(name: str) -> None:
        await asyncio.gather(*(store.create(f"packs/{name}{number}", b"x") for number in range(12)))

    asyncio.run(many("a"))
    asyncio.run(many("b"))
    assert len(asyncio.run(store.list("packs/"))) == 24


@pytest.mark.long
def test_a_process_ends_with_its_own_exit_code_right_after_many_failed_calls() -> None:
    """The library's threads once met an interpreter that had ended, and took the process with them (one in six)."""
    script = (
        "import asyncio, sys\n"
        "from tests.server.store.test_bucket import _impatient\n"
        "store = _impatient('s3://box')\n"
        "async def many(): await asyncio.gather(*(store.get('packs/x') for _ in range(40)), return_exceptions=True)\n"
        "asyncio.run(many())\n"
        "sys.exit(7)"
    )
    environment = {**os.environ, **s3_environment("http://127.0.0.1:9")}
    for _ in range(12):
        assert subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, check=False).returncode == 7
