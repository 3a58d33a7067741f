"""The interface of a namespace and the relay count the same known traffic, each in its own way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modelsync_bench.lab import Lab, quiet
from modelsync_bench.links import DIRECT, LINKS
from modelsync_bench.namespaces import NamespaceLab
from modelsync_bench.peers import Site
from modelsync_bench.processes import run_steps, server
from modelsync_bench.relay_lab import RelayLab

DOWN, UP = 400_000, 3_000
_SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection, _ = listener.accept()
    with connection:
        asked = 0
        while asked < int(sys.argv[3]) and (data := connection.recv(65536)):
            asked += len(data)
        if asked:
            connection.sendall(bytes(int(sys.argv[4])))
"""
_FETCH = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    connection.sendall(bytes(int(sys.argv[3])))
    got = 0
    while data := connection.recv(65536):
        got += len(data)
assert got == int(sys.argv[4]), got
"""


def carried(lab: Lab, folder: Path) -> tuple[int, int]:
    port = lab.port(7000)
    serve = [sys.executable, "-c", _SERVE, lab.server_host, str(port), str(UP), str(DOWN)]
    with server(lab, serve, folder / "serve.log", port=port):
        host, reached = lab.reach(port)
        before = quiet(lab, 0.2)
        run_steps(lab, [[sys.executable, "-c", _FETCH, host, str(reached), str(UP), str(DOWN)]], folder, 60)
        counts = quiet(lab, 0.2) - before
    return counts.up, counts.down


def test_the_interface_counts_every_header(site: Site, tmp_path: Path) -> None:
    site.lab.use(LINKS[DIRECT])
    up, down = carried(site.lab, tmp_path)
    # 66 bytes of headers (Ethernet, IP, TCP with timestamps) on each 1,448; merged packets would hide most of them.
    headers = 66 * -(-DOWN // 1448)
    assert DOWN + headers <= down <= DOWN + headers + 20 * 66
    assert UP + 3 * 66 <= up <= UP + 66 * (10 + DOWN // 1448)


def test_the_relay_counts_the_payload_to_the_byte(tmp_path: Path) -> None:
    with RelayLab() as lab:
        assert carried(lab, tmp_path) == (UP, DOWN)


def test_nothing_is_left_behind(site: Site) -> None:
    assert isinstance(site.lab, NamespaceLab)

    def there() -> set[str]:
        listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        return {line.split()[0] for line in listing.splitlines()} & set(site.lab.spaces)  # type: ignore[attr-defined]

    assert len(there()) == 2
    site.lab.close()
    assert not there()
