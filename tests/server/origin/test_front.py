"""What `modelsync serve --front nginx` promises beyond the contract: one service, whatever dies, for few bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
from pathlib import Path

import aiohttp
import psutil  # type: ignore[import-untyped]  # it has no types and is only read here
import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.origin import nginx_config, nginx_front
from tests.support.waiting import PATIENCE_SECONDS, wait_until

from .conftest import CONTENT, FRONT, OBJECTS, PACK, Origin, make_certificate, serve
from .test_serve import answer

_REQUEST = f"GET /{PACK} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def masters(origin: Origin) -> list[psutil.Process]:
    """nginx's first process, unless it is just being started again."""
    return [child for child in psutil.Process(origin.process.pid).children() if "nginx" in child.name()]


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; nobody may have taken note of its end yet."""
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def whole(origin: Origin) -> bool:
    try:
        return answer(origin, _REQUEST).endswith(CONTENT)
    except OSError:
        return False


def test_a_missing_nginx_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(nginx_front, "_ELSEWHERE", "")
    with pytest.raises(
        UsageError, match=r"^nginx is not installed: `apt install nginx-light`, or leave out --front\.$"
    ):
        nginx_front.program()


def test_an_answer_has_few_headers_and_absence_no_body(store: Path) -> None:
    with serve(store, None, options=FRONT) as origin:
        for path, cached in ((PACK, True), ("bundles/anomaly", False)):
            head = answer(origin, f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(
                b"\r\n\r\n"
            )
            names = {line.partition(b":")[0].decode() for line in head[0].split(b"\r\n")[1:]}
            assert names == {
                "Server", "Date", "Content-Length", "Connection", "ETag", "Cache-Control", "Accept-Ranges"
            }, path  # fmt: skip
            assert (b"immutable" in head[0]) == cached
        for path in ("packs/absent", "bundles/absent", "nothing/at/all", ""):
            missing = answer(origin, f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert missing.startswith(b"HTTP/1.1 404") and missing.endswith(b"\r\n\r\n"), path
            assert len(missing) < 150


def test_no_line_end_of_a_path_is_handed_on(store: Path) -> None:
    with serve(store, None, options=FRONT) as origin:
        for path in ("bundles/anomaly%0a", "metadata/timestamp.json%0a", f"{PACK}%0a"):
            found = answer(origin, f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert found.startswith(b"HTTP/1.1 404"), path
        origin.process.send_signal(signal.SIGTERM)
        assert origin.process.wait(PATIENCE_SECONDS) == 0
        assert origin.process.stderr is not None and origin.process.stderr.read() == ""


def test_what_clients_send_is_matched_from_its_beginning_only() -> None:
    """Else a header of 8 KB has a pattern tried from each of its places: 0.2 s of a worker for one request."""
    for directory in (True, False):
        made = nginx_config.text(nginx_config.Front("127.0.0.1:80", False, directory, 1, 9, 9, None))
        patterns = re.findall(r'map "?[^{]*\$http_[^{]*\{ "([^ ]*)', made)
        assert patterns
        assert all(pattern.startswith("~^") for pattern in patterns)


async def test_tags_are_the_same_on_a_copy_with_other_times(store: Path, tmp_path: Path) -> None:
    tags = []
    copy = tmp_path / "copy"
    shutil.copytree(store, copy, copy_function=shutil.copyfile)
    os.utime(copy / PACK, (1, 1))
    for folder in (store, copy):
        with serve(folder, None, options=FRONT) as origin:
            async with aiohttp.ClientSession(origin.url) as http:
                tags.append([(await http.head(f"/{path}")).headers["ETag"] for path in OBJECTS])
    assert tags[0] == tags[1]


def test_what_dies_is_started_again_and_nothing_is_left_behind(store: Path) -> None:
    with serve(store, None, options=FRONT) as origin:
        assert whole(origin)
        [first] = masters(origin)
        workers = first.children()
        assert workers
        first.kill()
        wait_until(lambda: any(found.pid != first.pid for found in masters(origin)), "nginx to be started again")
        assert whole(origin)
        wait_until(lambda: not any(map(alive, workers)), "the orphans' end")
        ours = next(child for child in psutil.Process(origin.process.pid).children() if "nginx" not in child.name())
        ours.kill()
        wait_until(lambda: b"bundle" in answer(origin, _REQUEST.replace(PACK, "bundles/anomaly")), "our origin")


def test_it_dies_with_who_started_it(store: Path) -> None:
    with serve(store, None, options=FRONT) as origin:
        assert whole(origin)
        family = psutil.Process(origin.process.pid).children(recursive=True)
        assert len(family) >= 3
        origin.process.kill()
        wait_until(lambda: not any(map(alive, family)), "its end")


def test_it_ends_soon_after_sigterm_even_with_slow_readers(store: Path, certificate: tuple[Path, Path]) -> None:
    with (store / "packs" / "large").open("wb") as file:
        file.truncate(200_000_000)
    with serve(store, certificate, options=FRONT) as origin, origin.connect() as slow, origin.connect() as idle:
        scratch = Path(masters(origin)[0].cwd())
        slow.sendall(b"GET /packs/large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(10)
        idle.sendall(b"GET /pa")
        origin.process.send_signal(signal.SIGTERM)
        assert origin.process.wait(PATIENCE_SECONDS) == 0
        assert origin.process.stderr is not None and origin.process.stderr.read() == ""
        assert not scratch.exists()


def test_tickets_outlast_a_restart_and_are_those_of_our_own_server(store: Path, certificate: tuple[Path, Path]) -> None:
    def visit(origin: Origin, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        host, port = origin.url.rpartition("//")[2].split(":")
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            secure = context.wrap_socket(plain, server_hostname=host, session=session)
            secure.sendall(b"GET /bundles/anomaly HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while secure.recv(65536):
                pass
            return secure.session, bool(secure.session_reused)

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with serve(store, certificate, options=FRONT) as origin:
        session, reused = visit(origin, None)
        assert session is not None and session.ticket_lifetime_hint == 7 * 24 * 3600 and not reused
    with serve(store, certificate, options=FRONT) as restarted:
        assert visit(restarted, session)[1]


def test_an_odd_name_of_the_store_does_no_harm(tmp_path: Path) -> None:
    from .conftest import make_store

    with serve(make_store(tmp_path / "a $store; \"with' {all}"), None, options=FRONT) as origin:
        assert whole(origin)
        for path in ("bundles/%61nomaly", "bundles/anomaly?x=1"):  # neither spoils what is kept for others
            answer(origin, f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            plain = answer(origin, "GET /bundles/anomaly HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert plain.endswith(b"bundle")


def shown(origin: Origin) -> bytes:
    """The certificate that a new connection is shown."""
    host, port = origin.url.rpartition("//")[2].split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=10).encode()


@pytest.mark.parametrize(
    "options", [FRONT, ("--processes", "2"), pytest.param(("--processes", "1"), marks=pytest.mark.long)]
)
def test_a_renewed_certificate_is_read_on_sighup_and_a_bad_one_changes_nothing(
    store: Path, certificate: tuple[Path, Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """As those that renew certificates do it: the names that are served are links, which are moved.

    One new certificate seen is not yet the last old one: each process reads it for itself, and nginx' old workers
    accept beside its new ones for a moment.
    """
    old, new, live = tmp_path / "1", tmp_path / "2", tmp_path / "live"
    make_certificate(new)
    old.mkdir()
    for name, file in zip(("chain.pem", "key.pem"), certificate, strict=True):
        shutil.copy(file, old / name)
    live.symlink_to(old)
    with serve(store, (live / "chain.pem", live / "key.pem"), options=options) as origin:
        first = shown(origin)
        assert first == (old / "chain.pem").read_bytes()
        workers = [worker for master in masters(origin) for worker in master.children()]
        with origin.connect() as held:  # a request that has begun goes on
            held.sendall(_REQUEST[:8].encode())
            live.unlink()
            live.symlink_to(new)
            origin.process.send_signal(signal.SIGHUP)
            renewed = (new / "chain.pem").read_bytes()
            wait_until(lambda: all(shown(origin) == renewed for _ in range(20)), "the new certificate everywhere")
            held.sendall(_REQUEST[8:].encode())
            assert held.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: not any(map(alive, workers)), "the end of the workers that have the old one")
        (new / "key.pem").write_text("damaged")
        origin.process.send_signal(signal.SIGHUP)
        assert origin.process.stderr is not None
        while "everything goes on as before" not in (line := origin.process.stderr.readline()):
            assert line, "it ended"
        assert shown(origin) == renewed


def test_what_a_killed_one_left_is_removed_by_the_next_and_what_is_in_use_is_not(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def folders() -> set[Path]:
        return set(tmp_path.glob("modelsync-front-*"))

    with serve(store, None, options=FRONT) as living:
        [used] = folders()
        with serve(store, None, options=FRONT) as origin:
            [left] = folders() - {used}
            family = psutil.Process(origin.process.pid).children(recursive=True)
            origin.process.kill()
            wait_until(lambda: not any(map(alive, family)), "its end")
        (tmp_path / "modelsync-front-strange").mkdir()
        assert left.exists()
        with serve(store, None, options=FRONT):
            assert not left.exists() and used.exists() and (tmp_path / "modelsync-front-strange").exists()
            assert whole(living)
