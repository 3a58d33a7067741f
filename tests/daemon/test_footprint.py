"""The resident process imports nothing heavy: tuf, zstandard and numpy belong to the worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"tuf", "securesystemslib", "zstandard", "numpy", "pydantic", "typer", "rich"}


def _imported(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("import modelsync_daemon.service, modelsync_daemon.azure", {"prometheus_client"}),
        ("import modelsync_daemon.service", {"prometheus_client", "azure"}),
        ("import modelsync_daemon.cli, modelsync_daemon.socket_client", {"aiohttp", "azure", "sqlite3"}),
    ],
)
def test_nothing_heavy_is_imported(code: str, more: set[str]) -> None:
    imported = _imported(code)
    assert "modelsync_daemon" in imported
    assert not imported & (HEAVY | more)


def test_the_worker_does_import_it() -> None:
    """Else the test above would prove nothing."""
    assert {"tuf", "zstandard"} <= _imported("import modelsync_daemon.preparing, modelsync_daemon.tufclient")
