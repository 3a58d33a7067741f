"""`git+https://HOST/REPOSITORY//PATH@REV` (ssh, file too): what a commit has at a path, with git-lfs objects in place.

Nothing is checked out: files are read as objects, so that no link, filter, hook or attribute of the repository acts
here. A name is resolved to its commit once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.sources import lfs
from modelsync_server.sources.port import Resolved, Scratch
from modelsync_server.sources.programs import GIT, run

INSTALL = "apt install git"
_FORM = "write git+https://HOST/REPOSITORY//PATH@REVISION (ssh and file too)"
_FIELDS = re.compile(r"(\d{6}) (\w+) ([0-9a-f]{40,64}) +(\d+|-)")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REVISION = re.compile(r"[\w][\w./+-]{0,250}")


@dataclass(frozen=True, slots=True)
class Place:
    """A repository, a path in it (empty: all of it) and a revision (`HEAD`: the newest)."""

    repository: str
    path: str
    revision: str

    @classmethod
    def parse(cls, text: str, form: str = _FORM) -> Place:
        """From REPOSITORY[//PATH][@REV]; UsageError. A repository with a user or password in it is refused."""
        scheme, slashes, rest = text.rpartition("://")
        repository, divided, path = rest.partition("//")
        head, at, revision = (path if divided else repository).rpartition("@")
        if not divided and "/" not in head:
            at = ""  # none, or the user of an ssh address
        if at and divided:
            path = head
        elif at:
            repository = head
        parts = path.strip("/").split("/")
        if (
            not repository
            or repository.startswith("-")
            or path.startswith("-")
            or (at and not _REVISION.fullmatch(revision))
            or ".." in parts
            or ".git" in parts
        ):
            raise UsageError(f"{text!r:.160} names nothing in a repository: {form}.")
        return cls(f"{scheme}{slashes}{repository}", path.strip("/"), revision if at else "HEAD")

    @property
    def local(self) -> bool:
        """Whether the repository is on this machine."""
        return "://" not in self.repository or self.repository.startswith("file://")

    @property
    def registry(self) -> str:
        """The repository as it may be signed: a path of this machine says nothing to others, or too much."""
        return "a local repository" if self.local else self.repository

    @property
    def public(self) -> str:
        """All of it as it may be signed: of a repository of this machine its name only."""
        name = self.repository.rstrip("/").rpartition("/")[2]
        return f"file:{Place(name, self.path, self.revision)}" if self.local else str(self)

    def __str__(self) -> str:
        inside = f"//{self.path}" if self.path else ""
        return f"{self.repository}{inside}" + ("" if self.revision == "HEAD" else f"@{self.revision}")


class GitRepository:
    """A path at a revision of a repository."""

    def __init__(self, text: str) -> None:
        """`text` is what follows `git+`; UsageError."""
        if text.partition("://")[0] not in ("https", "http", "ssh", "file"):
            raise UsageError(f"'git+{text:.160}' is no address of a repository: {_FORM}.")
        check_address(text)
        self._place = Place.parse(text)

    @property
    def uri(self) -> str:
        """See Source."""
        return f"git+{self._place.public}"

    async def resolve(self) -> Resolved:
        """The commit that the revision names now."""
        return Resolved(self._place.registry, await commit_of(self._place))

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """See Source."""
        repository, commit = scratch.folder / "repository", resolved.revision
        await run(*GIT, "init", "--quiet", str(repository), install=INSTALL)
        git = (*GIT, "-C", str(repository))
        await run(*git, "remote", "add", "origin", self._place.repository, install=INSTALL)
        fetched = ("fetch", "--quiet", "--depth", "1", "--no-tags", "origin")
        try:
            await run(*git, *fetched, commit, install=INSTALL, below=repository, most_bytes=scratch.left)
        except UsageError:  # a server that gives names only
            await run(*git, *fetched, self._place.revision, install=INSTALL, below=repository, most_bytes=scratch.left)
        found = (await run(*git, "rev-parse", "FETCH_HEAD^{commit}", install=INSTALL)).decode().strip()
        if found != commit:
            raise UnreachableError(f"{self._place.revision!r:.80} moved while it was read; try again.")
        await run(*git, "update-ref", "--no-deref", "HEAD", commit, install=INSTALL)
        return await self._lay_out(git, repository, commit, scratch)

    async def _lay_out(self, git: tuple[str, ...], repository: Path, commit: str, scratch: Scratch) -> Path:
        inside = self._place.path
        where = (f":(top,literal){inside}",) if inside else ()
        listing = await run(*git, "ls-tree", "-r", "-l", "-z", "--full-tree", commit, "--", *where, install=INSTALL)
        files = [_entry(line) for line in listing.decode(errors="surrogateescape").split("\0") if line]
        if not files:
            raise UsageError(f"{self._place.repository} has no {inside!r:.120} at {self._place.revision}: check it.")
        scratch.announce(sum(size for _, _, size in files), len(files))
        alone = len(files) == 1 and files[0][0] == inside
        name = (inside or self._place.repository.rstrip("/").removesuffix(".git")).rpartition("/")[2]
        pointers: list[tuple[Path, lfs.Pointer]] = []
        for path, object_id, size in files:
            target = scratch.place(
                f"files/{name}" if alone else f"files/{name}/{path.removeprefix(f'{inside}/') if inside else path}"
            )
            await run(*git, "cat-file", "blob", object_id, install=INSTALL, into=target)
            scratch.count(size)
            if pointer := lfs.pointer(target):
                pointers.append((target, pointer))
        await lfs.replace(pointers, repository, scratch)
        return scratch.folder / "files" / name


def check_address(text: str) -> None:
    """UsageError if an address holds a password, or a user where that is one half of a password."""
    try:
        url = URL(text.partition("//")[0] + "//" + text.partition("//")[2].partition("/")[0])
        user, password = url.user, url.password
    except ValueError:
        raise UsageError(f"the repository's address can't be read: {_FORM}.") from None
    if password is not None or (user is not None and url.scheme != "ssh"):
        raise UsageError("the repository's address holds a user or password: let git's credential helper have them.")


async def commit_of(place: Place) -> str:
    """The commit that a revision names in its repository; UsageError."""
    if _COMMIT.fullmatch(place.revision):
        return place.revision
    name = place.revision
    said = await run(*GIT, "ls-remote", "--quiet", "--", place.repository, name, f"{name}^{{}}", install=INSTALL)
    found = {ref: commit for commit, _, ref in (line.partition("\t") for line in said.decode().splitlines())}
    for ref in (f"refs/tags/{name}^{{}}", f"refs/tags/{name}", f"refs/heads/{name}", name):
        if _COMMIT.fullmatch(found.get(ref, "")):
            return found[ref]
    raise UsageError(f"{place.repository} has no branch or tag {name!r:.80}: check the name.")


def _entry(line: str) -> tuple[str, str, int]:
    """Path, object id and size of a line of `git ls-tree -l -z`; RefusedError for links and submodules."""
    fields, _, path = line.partition("\t")
    found = _FIELDS.fullmatch(fields)
    if found is None or found[1] not in ("100644", "100755", "100664"):
        raise RefusedError(f"the repository has {path!r:.80}, a link or submodule: fetched models have files only.")
    return path, found[3], int(found[4])
