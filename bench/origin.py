"""`modelsync serve`, the same with `--front nginx`, and plain nginx: same files, load generator and cores, in one run.

python -m bench.origin [--seconds N] [--rounds N] [--clients N] [--out FILE] needs nginx and wrk. Half of the clients
read a few KiB a second (a process of this file's own holds them), the other half as fast as they can (wrk). The
servers take turns; a row's ratio (to nginx) is the median over the rounds. Memory is the proportional set size of all
of a server's processes at its largest, processor time is a server's own for each request.

With granian or uvloop installed (`pip install granian uvloop`) the same run has `modelsync serve` on uvloop's loop, and
granian with its own static files and with a handler in Python: no origins, they show what could be had that way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import re
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]  # it has no types and is only read here

from modelsync_bench import certificates
from modelsync_server.store import create_store
from modelsync_server.trust.initialise import initialise
from tests.support.nginx import running_nginx

OWN, FRONT = "modelsync serve", "… --front nginx"
_ON_UVLOOP = (
    "import sys, uvloop; uvloop.install(); from modelsync_server.cli import main; sys.argv[0] = 'modelsync'; main()"
)
_Server = tuple[str, subprocess.Popen[str]]
_OBJECTS = {
    "1 MiB": ("packs/" + "1a" * 32, 1 << 20),
    "600 B": ("packs/" + "06" * 32, 600),
    "bundle": ("bundles/model", 800),
}
_SLOW_OBJECT = ("packs/" + "51" * 32, 64 << 20)
_SLOW_BYTES, _SLOW_SECONDS = 2048, 0.5
_DESCRIPTORS = 16384
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Trial:
    """One server under load for some seconds."""

    requests_a_second: float
    cpu_us_a_request: float
    pss_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds; `ratio` is this server's to nginx's throughput, `lowest` and `highest` its range."""

    object: str
    tls: bool
    server: str
    ours: Trial
    nginx: Trial
    ratio: float
    lowest: float
    highest: float


def main() -> int:
    """Print a table; exit 0 if half of nginx's throughput is met (by our own server on 1 MiB), else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=5, help="of each trial (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=1000, help="half of them slow (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    parser.add_argument("--hold", nargs=2, metavar=("URL", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _DESCRIPTORS), most))
    if options.hold:
        asyncio.run(_hold(options.hold[0], int(options.hold[1])))
        return 0
    rows = measure(options.seconds, options.rounds, options.clients)
    print(f"{options.clients} clients, half of them slow; {options.rounds} rounds of {options.seconds} s\n")
    print("| object | | server | its requests /s | nginx /s | ratio (range) | cpu µs a request | MiB |")
    print("|---|---|---|---:|---:|---|---|---|")
    for row in rows:
        print(
            f"| {row.object} | {'TLS' if row.tls else 'HTTP'} | {row.server} | {row.ours.requests_a_second:,.0f} "
            f"| {row.nginx.requests_a_second:,.0f} | {row.ratio:.2f} ({row.lowest:.2f} to {row.highest:.2f}) "
            f"| {row.ours.cpu_us_a_request:,.0f} / {row.nginx.cpu_us_a_request:,.0f} "
            f"| {row.ours.pss_mib:.0f} / {row.nginx.pss_mib:.0f} |"
        )
    met = all(row.ratio >= 0.5 for row in rows if row.server == FRONT or (row.server == OWN and row.object == "1 MiB"))
    errors = sum(row.ours.errors for row in rows if row.server in (OWN, FRONT))
    print(f"\ntarget (1 MiB, and all behind nginx: at least 0.50): {'met' if met else 'MISSED'}")
    print(f"failed requests of ours: {errors}")
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if met and errors == 0 else 1


def measure(seconds: int, rounds: int, clients: int) -> list[Row]:
    """Run everything; the servers are started anew for HTTP and for TLS."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="modelsync-origin-") as scratch:
        folder = Path(scratch)
        store = folder / "store"
        asyncio.run(initialise(create_store(str(store)), str(folder / "keys")))
        for path, size in (*_OBJECTS.values(), _SLOW_OBJECT):
            (store / path).parent.mkdir(exist_ok=True)
            (store / path).write_bytes(b"\xa5" * size)
        made = certificates.make(folder / "tls")
        pair = made.chain, made.key
        for tls in (False, True):
            certificate = pair if tls else None
            with ExitStack() as started:
                nginx = started.enter_context(
                    running_nginx(store, certificate, folder, workers=psutil.cpu_count(), connections=8192)
                )
                servers = {name: started.enter_context(each) for name, each in _servers(store, certificate).items()}
                for name, (path, _) in _OBJECTS.items():
                    trials = [
                        {
                            server: _trial(url, path, process.pid, seconds, clients)
                            for server, (url, process) in {"nginx": nginx, **servers}.items()
                        }
                        for _ in range(rounds)
                    ]
                    rows += [
                        _row(name, tls, server, [(trial[server], trial["nginx"]) for trial in trials])
                        for server in servers
                    ]
    return rows


def _servers(store: Path, certificate: tuple[Path, Path] | None) -> Mapping[str, AbstractContextManager[_Server]]:
    """What is measured beside nginx; what is not installed is left out."""
    modelsync = str(Path(sys.executable).with_name("modelsync"))
    found = {
        OWN: _modelsync([modelsync], store, certificate),
        FRONT: _modelsync([modelsync], store, certificate, "--front", "nginx"),
    }
    if importlib.util.find_spec("uvloop"):
        found["… on uvloop"] = _modelsync([sys.executable, "-c", _ON_UVLOOP], store, certificate)
    if importlib.util.find_spec("granian"):
        found["granian, static files"] = _granian(store, certificate, static=True)
        found["granian, a handler in Python"] = _granian(store, certificate, static=False)
    return found


def _row(name: str, tls: bool, server: str, trials: list[tuple[Trial, Trial]]) -> Row:
    ratios = [ours.requests_a_second / max(nginx.requests_a_second, 1e-9) for ours, nginx in trials]
    ours, nginx = (_middle([pair[which] for pair in trials]) for which in (0, 1))
    return Row(name, tls, server, ours, nginx, statistics.median(ratios), min(ratios), max(ratios))


def _middle(trials: list[Trial]) -> Trial:
    return Trial(
        statistics.median(trial.requests_a_second for trial in trials),
        statistics.median(trial.cpu_us_a_request for trial in trials),
        max(trial.pss_mib for trial in trials),
        sum(trial.errors for trial in trials),
    )


def _trial(url: str, path: str, pid: int, seconds: int, clients: int) -> Trial:
    slow = subprocess.Popen(
        [sys.executable, "-m", "bench.origin", "--hold", f"{url}/{_SLOW_OBJECT[0]}", str(clients - clients // 2)],
        stdout=subprocess.PIPE,
    )
    try:
        assert slow.stdout is not None
        slow.stdout.readline()  # all of them are connected
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        before = _processor(processes)
        command = ["wrk", "-t1", f"-c{clients // 2}", f"-d{seconds}s", "--timeout", "30s", f"{url}/{path}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        used = _processor(processes) - before
        pss = sum(process.memory_full_info().pss for process in processes) / _MIB
    finally:
        slow.kill()
        slow.communicate()
    done = re.search(r"(\d+) requests in ([\d.]+)(m?s)", output)
    assert done, output
    count, lasted = int(done[1]), float(done[2]) / (1000 if done[3] == "ms" else 1)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, broken.groups())) if broken else 0)
    return Trial(count / lasted, 1e6 * used / max(count, 1), pss, errors)


def _processor(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def _hold(url: str, count: int) -> None:
    """Keep `count` slow readers of `url`; say so on stdout once all have an answer. Ends with the process."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answered = 0

    async def read() -> None:
        nonlocal answered
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
        name = parts.hostname if context else None
        reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname=name, limit=4096)
        writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.read(_SLOW_BYTES)
        answered += 1
        if answered == count:
            print("holding", flush=True)
        while await reader.read(_SLOW_BYTES):  # noqa: ASYNC110  # it paces itself, it waits for nothing
            await asyncio.sleep(_SLOW_SECONDS)

    await asyncio.gather(*(read() for _ in range(count)))


@contextmanager
def _modelsync(
    program: list[str], store: Path, certificate: tuple[Path, Path] | None, *options: str
) -> Iterator[_Server]:
    command = [*program, "serve", str(store), *options]
    if certificate:
        command += ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        time.sleep(0.5)  # until its children are there
        yield url, process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)


@contextmanager
def _granian(store: Path, certificate: tuple[Path, Path] | None, *, static: bool) -> Iterator[_Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--interface", "rsgi", "--port", str(port), "--workers", str(psutil.cpu_count()), "--backlog", "1024"]
    options += ["--no-ws", "--log-level", "error", "--http", "1"]
    for folder in {path.partition("/")[0] for path, _ in (*_OBJECTS.values(), _SLOW_OBJECT)} if static else ():
        options += ["--static-path-route", f"/{folder}", "--static-path-mount", str(store / folder)]
    if certificate:
        options += ["--ssl-certificate", str(certificate[0]), "--ssl-keyfile", str(certificate[1])]
    command = [str(Path(sys.executable).with_name("granian")), *options, "bench.origin_granian:app"]
    process = subprocess.Popen(command, text=True, env={**os.environ, "STORE": str(store)})
    try:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < deadline, "granian does not start"
            time.sleep(0.1)
        time.sleep(0.5)
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}", process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)


if __name__ == "__main__":
    sys.exit(main())
