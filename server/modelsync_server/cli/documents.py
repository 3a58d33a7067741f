"""The JSON documents of `list`, `show` and `diff`. Keys are only ever added; tests hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from modelsync_protocol import trust

if TYPE_CHECKING:
    from modelsync_server import Difference, Explanation, Model, Release, UpdatePrice, Version, VersionDetails


def release(result: Release) -> dict[str, Any]:
    """What `publish --json` prints; `metadata`, `code` and `requires` only if there is any."""
    document = {
        "name": result.name,
        "version": result.version,
        "manifest": result.digest,
        "size": result.size,
        "files": result.files,
        "chunks": result.chunks,
        "install_bytes": result.install_bytes,
        "updates": _updates(result.updates),
        "advice": [{"text": item.text, "bytes": item.bytes} for item in result.advice],
    }
    more = {"metadata": dict(result.metadata), "code": list(result.code), "requires": dict(result.requires)}
    if result.work.resumed or result.work.retried:
        more["work"] = asdict(result.work)
    return document | {key: value for key, value in more.items() if value}


def models(found: Sequence[Model]) -> dict[str, Any]:
    """What `list --json` prints."""
    return {
        "models": [
            {
                "name": model.name,
                "versions": [_version(version) for version in model.versions],
                "withdrawn": list(model.withdrawn),
            }
            for model in found
        ]
    }


def details(found: VersionDetails) -> dict[str, Any]:
    """What `show --json` prints."""
    return {
        "name": found.name,
        **_version(found.version),
        "newest": found.newest,
        "chunks": found.chunks,
        "probe": found.probe,
        "requires": dict(found.requires),
        "entries": [asdict(entry) for entry in found.entries],
        "signatures": [
            {"role": item.role, "keyids": list(item.keyids), "expires": trust.format_time(item.expires)}
            for item in found.signatures
        ],
        "problem": found.problem,
    }


def difference(found: Difference) -> dict[str, Any]:
    """What `diff --json` prints."""
    document = asdict(found)
    document["from"], document["to"] = document.pop("old"), document.pop("new")
    return document


def explanation(found: Explanation) -> dict[str, Any]:
    """What `explain --json` prints, and `publish --explain --json` under `explain`."""
    return {
        "name": found.name,
        "from": found.old,
        "to": found.new,
        "bytes": found.bytes,
        "header_bytes": found.header_bytes,
        "encodings": found.encodings,
        "parts": [
            {
                "path": part.path,
                "tensor": part.tensor,
                "size": part.size,
                "bytes": part.bytes,
                "encodings": dict(part.encodings),
            }
            for part in found.parts
        ],
    }


def _version(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "manifest": version.digest,
        "published": _time(version.published),
        "published_signed": version.published_signed,
        "size": version.size,
        "files": version.files,
        "install_bytes": version.install_bytes,
        "updates": _updates(version.updates),
        "metadata": dict(version.metadata),
        "requires": dict(version.requires),
    }


def _updates(prices: Sequence[UpdatePrice]) -> list[dict[str, Any]]:
    return [
        {"from": each.base, "bytes": each.bytes, "requests": each.requests}
        | ({} if each.older_bytes is None else {"older": {"format": 1, "bytes": each.older_bytes}})
        for each in prices
    ]


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else trust.format_time(moment)
