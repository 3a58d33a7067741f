"""`hf:ORG/REPO[@REV][/FILE]`: models on the Hugging Face Hub, or on what speaks its interface at HF_ENDPOINT.

A revision is resolved to its commit once; every file is compared with the digest that the Hub's listing says.
Source: https://huggingface.co/docs/hub/api.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from yarl import URL

from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.sources import credentials
from modelsync_server.sources.client import Client, Digest
from modelsync_server.sources.port import Resolved, Scratch

_FORM = "write hf:ORG/REPO, hf:ORG/REPO@REVISION or hf:ORG/REPO@REVISION/FILE"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_REVISION = re.compile(r"(refs/[a-z]+/[\w.-]+|[\w.-]{1,200})(/.*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HINT = "set HF_TOKEN, or accept the model's conditions on its page"
_PASSED_OVER = {".gitattributes"}
_MOST_LISTING_BYTES = 64 << 20


class HuggingFace:
    """One model repository, or what of it lies below a path."""

    def __init__(self, text: str) -> None:
        """`text` is what follows `hf:`; UsageError."""
        repo, at, rest = text.partition("@")
        if not at:
            parts = repo.split("/")
            repo, rest = "/".join(parts[:2]), "/".join(["main", *parts[2:]])
        found = _REVISION.fullmatch(rest)
        if not _REPO.fullmatch(repo) or found is None:
            raise UsageError(f"'hf:{text:.120}' names no model of the Hub: {_FORM}.")
        self._repo, self._revision, self._below = repo, found[1], (found[2] or "").strip("/")
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        self._endpoint = URL(endpoint.rstrip("/"))
        if self._endpoint.scheme not in ("http", "https") or self._endpoint.user or not self._endpoint.host:
            raise UsageError("HF_ENDPOINT is no http:// or https:// address without a user: set the Hub's.")

    @property
    def uri(self) -> str:
        """See Source."""
        return f"hf:{self._repo}@{self._revision}" + (f"/{self._below}" if self._below else "")

    async def resolve(self) -> Resolved:
        """The commit that the revision names now."""
        async with self._client() as client:
            found = (await client.ask(self._api(self._revision, "expand[]=sha"))).document()
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise UnreachableError(f"{self._endpoint.host} does not say which commit {self._revision!r:.80} is.")
        return Resolved(str(self._endpoint), commit)

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """See Source."""
        commit = resolved.revision
        async with self._client() as client:
            answer = await client.ask(self._api(commit, "blobs=true"), limit=_MOST_LISTING_BYTES)
            wanted = list(self._wanted(answer.document(), commit))
            scratch.announce(sum(size for _, size, _ in wanted), len(wanted))
            alone = len(wanted) == 1 and wanted[0][0] == self._below
            folder = "" if alone else f"{self._repo.rpartition('/')[2]}/"
            for path, size, digest in wanted:
                inside = (
                    path.rpartition("/")[2]
                    if alone
                    else (path.removeprefix(f"{self._below}/") if self._below else path)
                )
                url = URL(f"{self._endpoint}/{self._repo}/resolve/{commit}/{quote(path)}", encoded=True)
                await client.download(url, scratch.place(folder + inside), scratch, size=size, digest=digest)
        return scratch.folder / (folder.rstrip("/") or wanted[0][0].rpartition("/")[2])

    def _wanted(self, listing: Any, commit: str) -> Iterator[tuple[str, int, Digest]]:
        """Path, size and digest of the files to fetch."""
        files = listing.get("siblings") if isinstance(listing, dict) else None
        if not isinstance(files, list) or listing.get("sha") != commit:
            raise UnreachableError(f"{self._endpoint.host} lists no files of commit {commit[:12]}.")
        any_left = False
        for file in files:
            match file:
                case {"rfilename": str(path), "size": int(size), "lfs": {"sha256": str(value)}}:
                    digest = Digest("sha256", value)
                case {"rfilename": str(path), "size": int(size), "blobId": str(value)}:
                    digest = Digest("git", value)
                case _:
                    raise UnreachableError(f"{self._endpoint.host} lists a file without its size and digest.")
            if size < 0:
                raise RefusedError(f"{self._endpoint.host} lists a file of {size} bytes.")
            if path in _PASSED_OVER or (self._below and path != self._below and not path.startswith(f"{self._below}/")):
                continue
            any_left = True
            yield path, size, digest
        if not any_left:
            what = f"{self._below!r:.120} in it" if self._below else "file in it"
            raise UsageError(f"{self._repo} at {self._revision} has no {what}: check the path.")

    def _api(self, revision: str, query: str) -> URL:
        return URL(
            f"{self._endpoint}/api/models/{self._repo}/revision/{quote(revision, safe='')}?{query}", encoded=True
        )

    def _client(self) -> Client:
        return Client(credentials.hugging_face(self._endpoint), hint=_HINT)
