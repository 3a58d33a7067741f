"""Azurite, the Blob service for tests: installed once per machine by npm outside the checkout, one per test session."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.addresses import free_port
from tests.support.npm import installed
from tests.support.waiting import end, listens

VERSION = "3.35.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The well-known key of Azure's own emulators."""


@contextmanager
def azurite() -> Iterator[str]:
    """Run a blob service in memory; yields its connection string."""
    program = _installed()
    port = free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry"]
    process = subprocess.Popen([*command, "--skipApiVersionCheck", "--inMemoryPersistence"])
    try:
        listens(port, process)
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
    finally:
        end(process)


@contextmanager
def azurite_with_entra(certificate: Path) -> Iterator[str]:
    """Run one that takes Entra ID's tokens over TLS, by `certificate` (PEM with its key) for 127.0.0.1; its endpoint.

    Azurite looks at a token's issuer, audience and times, not at its signature.
    """
    port = free_port()
    command = [_installed(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry",
               "--skipApiVersionCheck", "--inMemoryPersistence", "--oauth", "basic", "--cert", str(certificate),
               "--key", str(certificate)]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        listens(port, process)
        yield f"https://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        end(process)


def _installed() -> str:
    modules = installed("azurite", VERSION, "package.json").parents[1]
    return str(modules / ".bin" / "azurite-blob")
