"""`modelsyncd scrub`: hashes a data directory and hands what is damaged to the daemon that runs in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelsync_daemon.build.scrub import Finding, scrub
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.local import socket_client
from modelsync_protocol.errors import RefusedError


def run(root: Path) -> dict[str, Any]:
    """Scrub; `{"versions", "bytes", "damaged": [{"model", "version", "digest", "files", "mending"}]}`.

    `mending`: the daemon has it in hand. Raises LocalError.
    """
    findings = list(scrub(DataDir(root)))
    return {
        "versions": len(findings),
        "bytes": sum(finding.bytes for finding in findings),
        "damaged": [_damaged(root, finding) for finding in findings if finding.files],
    }


def check(result: dict[str, Any]) -> None:
    """Raise RefusedError if something is damaged that nobody mends."""
    left = [item for item in result["damaged"] if not item["mending"]]
    if left:
        named = ", ".join(
            f"{item['model']} version {item['version']} ({', '.join(item['files'][:3])})" for item in left
        )
        raise RefusedError(f"damaged and not being mended: {named}; start modelsyncd, then scrub again.")


def _damaged(root: Path, finding: Finding) -> dict[str, Any]:
    version = {"model": finding.name, "version": finding.version, "digest": finding.digest}
    try:
        socket_client.call(root / "daemon.sock", "POST", "/v1/repair", version)
        mending = True
    except (socket_client.NoDaemon, RefusedError):
        mending = False
    return {**version, "files": list(finding.files), "mending": mending}
