"""Azurite, the Blob service for tests: installed once per machine by npm outside the checkout, one per test session."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.npm import installed

VERSION = "3.35.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The well-known key of Azure's own emulators."""


@contextmanager
def azurite() -> Iterator[str]:
    """Run a blob service in memory; yields its connection string."""
    program = _installed()
    port = _free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry"]
    process = subprocess.Popen([*command, "--skipApiVersionCheck", "--inMemoryPersistence"])
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < deadline, "Azurite does not start"
            time.sleep(0.05)
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def azurite_with_entra(certificate: Path) -> Iterator[str]:
    """Run one that takes Entra ID's tokens over TLS, by `certificate` (PEM with its key) for 127.0.0.1; its endpoint.

    Azurite looks at a token's issuer, audience and times, not at its signature.
    """
    port = _free_port()
    command = [_installed(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry",
               "--skipApiVersionCheck", "--inMemoryPersistence", "--oauth", "basic", "--cert", str(certificate),
               "--key", str(certificate)]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < deadline, "Azurite does not start"
            time.sleep(0.05)
        yield f"https://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        process.terminate()
        process.wait(10)


def _installed() -> str:
    modules = installed("azurite", VERSION, "package.json").parents[1]
    return str(modules / ".bin" / "azurite-blob")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
