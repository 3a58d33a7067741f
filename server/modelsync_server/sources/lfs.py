"""Git LFS: pointer files replaced by what they point to, by the program `git lfs` where it is, else by the batch API.

Source: github.com/git-lfs/git-lfs docs/spec.md and docs/api/batch.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarl import URL

from modelsync_protocol.caps import MIB
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.sources import credentials
from modelsync_server.sources.port import Scratch
from modelsync_server.sources.programs import GIT, run

_VERSION = b"version https://git-lfs.github.com/spec/v1\n"
_POINTER = re.compile(rb"version [^\n]+\n(?:ext-\d-[^\n]+\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n")
_LEAST_POINTER_BYTES, _MOST_POINTER_BYTES = 126, 1024
_MEDIA = "application/vnd.git-lfs+json"
_INSTALL = "apt install git-lfs"
_BATCH = 100
_NO_REMOTE = "fetch it with `git lfs pull` first"


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a pointer file says: the object's SHA-256 and size in bytes."""

    digest: str
    size: int


def pointer(path: Path) -> Pointer | None:
    """The pointer in a file; None if it is something else."""
    with path.open("rb") as file:
        data = file.read(_MOST_POINTER_BYTES + 1)
    if not data.startswith(_VERSION) or len(data) > _MOST_POINTER_BYTES:
        return None
    found = _POINTER.fullmatch(data)
    return None if found is None else Pointer(found[1].decode(), int(found[2]))


def pointers_below(path: Path) -> list[Path]:
    """Pointer files at `path` or below it, links not followed."""
    if path.is_file():
        return [path] if pointer(path) else []
    found, folders = [], [str(path)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:  # what can't be read has no pointers here
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders += [entry.path] if entry.name != ".git" else []
                elif entry.is_file(follow_symlinks=False):
                    size = entry.stat(follow_symlinks=False).st_size
                    if _LEAST_POINTER_BYTES <= size <= _MOST_POINTER_BYTES and pointer(Path(entry.path)):
                        found.append(Path(entry.path))
    return found


async def replace(pointers: Sequence[tuple[Path, Pointer]], repository: Path, scratch: Scratch) -> None:
    """Put the objects in the place of their pointer files; `repository` is where git finds its remote.

    RefusedError if an object has other bytes than its pointer says; UsageError, UnreachableError.
    """
    if not pointers:
        return
    scratch.announce(sum(each.size for _, each in pointers), len(pointers))
    if shutil.which("git-lfs"):
        for path, wanted in pointers:
            await _by_program(path, wanted, repository, scratch)
    else:
        for start in range(0, len(pointers), _BATCH):
            await _by_batch_api(pointers[start : start + _BATCH], repository, scratch)


async def _by_program(path: Path, wanted: Pointer, repository: Path, scratch: Scratch) -> None:
    text, target = path.read_bytes(), path.with_name(f"{path.name}.lfs-part")
    command = (*GIT, "-C", str(repository), "lfs", "smudge", "--", path.name)
    await run(*command, install=_INSTALL, give=text, into=target, most_bytes=scratch.left)
    await asyncio.to_thread(_check, target, path.name, wanted)
    scratch.count(wanted.size)
    target.replace(path)


def _check(file: Path, name: str, wanted: Pointer) -> None:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(4 * MIB):
            found.update(block)
    if file.stat().st_size != wanted.size or found.hexdigest() != wanted.digest:
        raise RefusedError(f"git lfs gives other bytes of {name!r:.80} than its pointer says.")


async def _by_batch_api(pointers: Sequence[tuple[Path, Pointer]], repository: Path, scratch: Scratch) -> None:
    server = await _server(repository)
    account = await _account(server, repository)
    from modelsync_server.sources.client import Client, Digest  # with it comes aiohttp, and most trees hold no pointer

    async with Client(account, hint="let git's credential helper have the account") as client:
        asked = {
            "operation": "download",
            "transfers": ["basic"],
            "objects": [{"oid": each.digest, "size": each.size} for _, each in pointers],
        }
        headers = {"Accept": _MEDIA, "Content-Type": _MEDIA}
        answer = (await client.ask(server / "objects" / "batch", method="POST", body=asked, headers=headers)).document()
        objects = answer.get("objects") if isinstance(answer, dict) else None
        found = (
            {each.get("oid"): each for each in objects if isinstance(each, dict)} if isinstance(objects, list) else {}
        )
        for path, wanted in pointers:
            url, more = _action(found.get(wanted.digest), path.name)
            target = path.with_name(f"{path.name}.lfs-part")
            # What the server names for this object goes to where it names, and no further.
            async with Client(credentials.Fixed(url, more)) as carrier:
                digest = Digest("sha256", wanted.digest)
                await carrier.download(url, target, scratch, size=wanted.size, digest=digest)
            target.replace(path)


def _action(entry: Any, name: str) -> tuple[URL, dict[str, str]]:
    """Where an object is, and the headers to ask for it with."""
    match entry:
        case {"error": {"message": str(message)}}:
            raise UsageError(f"the LFS server has no {name!r:.80}: {message:.120}.")
        case {"actions": {"download": {"href": str(address), **rest}}}:
            headers = rest.get("header")
            try:
                url = URL(address)
                if url.scheme not in ("http", "https") or not url.host:
                    raise ValueError
            except ValueError:
                raise UnreachableError(f"the LFS server names no usable address of {name!r:.80}.") from None
            good = headers if isinstance(headers, dict) else {}
            return url, {str(key): str(value) for key, value in good.items()}
    raise UnreachableError(f"the LFS server does not say where {name!r:.80} is.")


async def _server(repository: Path) -> URL:
    """The LFS server of a repository: what its `.lfsconfig` or git's settings say, else its remote's."""
    git = (*GIT, "-C", str(repository))
    for question in (("config", "lfs.url"), ("config", "--blob", "HEAD:.lfsconfig", "lfs.url")):
        try:
            found = (await run(*git, *question, install="apt install git")).decode().strip()
        except UsageError:
            continue
        return _usable(found)
    try:
        remote = (await run(*git, "remote", "get-url", "origin", install="apt install git")).decode().strip()
    except UsageError:
        raise UsageError(f"the pointer file's repository has no remote named origin: {_NO_REMOTE}.") from None
    return _usable(f"{remote.rstrip('/').removesuffix('.git')}.git/info/lfs")


def _usable(address: str) -> URL:
    try:
        url = URL(address)
        if url.scheme in ("http", "https") and url.host:
            return url.with_user(None)
    except ValueError:
        pass
    raise UsageError(f"its LFS server is not on HTTP, so it takes git-lfs: {_INSTALL}, or {_NO_REMOTE}.")


async def _account(server: URL, repository: Path) -> credentials.Fixed:
    """What git's credential helpers know of the server."""
    question = f"protocol={server.scheme}\nhost={server.authority}\npath={server.path.lstrip('/')}\n\n".encode()
    try:
        command = (*GIT, "-C", str(repository), "-c", "core.askPass=", "credential", "fill")
        said = await run(*command, install="apt install git", give=question, environment={"GIT_ASKPASS": ""})
    except UsageError:
        return credentials.Fixed(server, {})
    known = dict(line.partition("=")[::2] for line in said.decode().splitlines())
    if not known.get("password"):
        return credentials.Fixed(server, {})
    return credentials.Fixed(server, credentials.basic(known.get("username", ""), known["password"]))
