"""What python-tuf is answered with: from the bundle what it has, and from the origin the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuf.api import exceptions
from tuf.ngclient import FetcherInterface, UpdaterConfig

from modelsync_daemon.trust.resolved import Fetch, ObjectMissing
from modelsync_protocol import bundle as bundles
from modelsync_protocol import trust

CONFIG = UpdaterConfig()


class OriginFetcher(FetcherInterface):
    """Answers from the bundle what it can, and asks the origin for the rest."""

    def __init__(
        self,
        chain: str | None,
        fetch: Fetch,
        at_hand: dict[str, bytes],
        believed: bundles.Bundle | None,
        missing_roots: set[str],
    ) -> None:
        """`at_hand`: documents by store path. `believed`: the bundle that may answer for the next root."""
        self._chain = chain
        self._ask = fetch
        self._missing_roots = missing_roots
        self._newest_root = believed.root_version if believed else None
        self._at_hand = at_hand
        self.asked_root = False

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, CONFIG.targets_max_length)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        url = _in_chain(url, self._chain)
        if len(self._at_hand.get(url, b"")) > max_length:
            raise exceptions.DownloadLengthMismatchError(url)
        if url in self._at_hand:
            return self._at_hand[url]
        is_root = url.endswith(".root.json")
        if is_root:
            number = int(url.removeprefix("metadata/").partition(".")[0])
            if url in self._missing_roots or (self._newest_root is not None and number > self._newest_root):
                raise exceptions.DownloadHTTPError("no newer root", 404)
        try:
            data = self._ask(url, max_length)
        except ObjectMissing as error:
            if is_root:
                self.asked_root = True
                self._missing_roots.add(url)
            raise exceptions.DownloadHTTPError(url, 404) from error
        if len(data) > max_length:
            raise exceptions.DownloadLengthMismatchError(url)
        return data


def _in_chain(path: str, chain: str | None) -> str:
    """The store path of a chain's file that python-tuf asks for by the name that it has in the shared chain."""
    if chain is None:
        return path
    if path == trust.TIMESTAMP_OBJECT:
        return trust.timestamp_object(chain)
    version, _, role = path.removeprefix("metadata/").removesuffix(".json").partition(".")
    return f"metadata/{version}.{trust.chain_role(role, chain)}.json"


def documents_at_hand(model: str, chain: str | None, bundle: bundles.Bundle, kept: Path) -> dict[str, bytes]:
    """The bundle's metadata by store path; without its timestamp if that is older than the one in the folder `kept`.

    Who publishes one model leaves the shared chain's other bundles as they are until the next refresh, so an older
    timestamp is nothing odd: another model's bundle has brought a newer one. If what that says of this model is what
    the bundle brings, there is nothing to ask, and the kept one answers, as long as it lives.
    """
    try:
        parsed = [json.loads(text)["signed"] for text in (bundle.timestamp, bundle.snapshot, bundle.role)]
        timestamp, snapshot, role = (int(signed["version"]) for signed in parsed)
        said = _of_model(model, parsed[1])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    documents = {
        trust.metadata_object(trust.chain_role("snapshot", chain), snapshot): bundle.snapshot,
        trust.metadata_object(trust.role_name(model), role): bundle.role,
    }
    try:
        known = (kept / "timestamp.json").read_bytes()
        newer = int(json.loads(known)["signed"]["version"]) > timestamp
    except (OSError, ValueError, KeyError, TypeError):
        known, newer = b"", False  # none is kept, or a damaged one
    if not newer:
        documents[trust.timestamp_object(chain)] = bundle.timestamp
    elif said == _kept_of_model(model, kept) and _same_role(model, bundle.role, kept):
        documents[trust.timestamp_object(chain)] = known
    return documents


def _of_model(model: str, snapshot: Any) -> list[Any]:
    """What a snapshot's signed part says of the model's roles."""
    return [snapshot["meta"].get(f"{role}.json") for role in (trust.role_name(model), trust.archive_name(model))]


def _same_role(model: str, role: bytes, folder: Path) -> bool:
    """Whether a role is the one kept here, if one is: another of the same number is somebody else's."""
    try:
        return (folder / f"{quote(trust.role_name(model), '')}.json").read_bytes() == role
    except OSError:
        return True


def _kept_of_model(model: str, folder: Path) -> list[Any] | None:
    try:
        return _of_model(model, json.loads((folder / "snapshot.json").read_bytes())["signed"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
