"""`dvc:[REPOSITORY//]PATH[@REV]`: what DVC tracks in a git repository, brought by the program `dvc`.

Its revision is resolved to a commit once. DVC finds its remotes and their credentials in its own settings, and
compares what it brings with its own digests. Source: https://dvc.org/doc/command-reference/get.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from modelsync_protocol.errors import UsageError
from modelsync_server.sources.git import INSTALL, Place, check_address, commit_of
from modelsync_server.sources.port import Resolved, Scratch
from modelsync_server.sources.programs import GIT, run

_FORM = "write dvc:PATH, dvc:PATH@REVISION or dvc:REPOSITORY//PATH@REVISION"
_INSTALL = "pip install 'modelsync-server[dvc]'"


class DvcOutput:
    """A file or folder that DVC tracks."""

    def __init__(self, text: str) -> None:
        """`text` is what follows `dvc:`; UsageError."""
        if "://" in text:
            check_address(text)
        plain = "//" not in text
        self._place = Place.parse(f".//{text}" if plain else text, _FORM)
        self._local = plain
        if not self._place.path:
            raise UsageError(f"'dvc:{text:.160}' names no file: {_FORM}.")

    @property
    def uri(self) -> str:
        """See Source."""
        return f"dvc:{str(self._place).removeprefix('.//') if self._local else self._place.public}"

    async def resolve(self) -> Resolved:
        """The commit that the revision names now."""
        repository, _ = await self._repository()
        place = Place(repository, "", self._place.revision)
        return Resolved(place.registry, await commit_of(place))

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """See Source."""
        repository, inside = await self._repository()
        name = inside.rpartition("/")[2]
        target = scratch.folder / "dvc" / name
        target.parent.mkdir()
        command = (_program(), "get", "--quiet", "--rev", resolved.revision, "--out", str(target), repository, inside)
        quiet = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(scratch.folder / "cache")}
        below = scratch.folder
        await run(*command, install=_INSTALL, below=below, most_bytes=2 * scratch.left, environment=quiet)
        if not target.exists() and not target.is_symlink():
            raise UsageError(f"dvc brought no {inside!r:.120}: check the path.")
        scratch.adopt(target.parent)
        return target

    async def _repository(self) -> tuple[str, str]:
        """The repository, and the path in it: of a plain path those of the repository in which it lies."""
        if not self._local:
            return self._place.repository, self._place.path
        path = Path(self._place.path).absolute()
        folder = next(parent for parent in path.parents if parent.is_dir())
        said = await run(*GIT, "-C", str(folder), "rev-parse", "--show-toplevel", install=INSTALL)
        root = Path(said.decode().rstrip("\n")).resolve()
        return str(root), (folder.resolve() / path.relative_to(folder)).relative_to(root).as_posix()


def _program() -> str:
    """The command `dvc`: on the path, or installed beside this program."""
    beside = Path(sys.executable).with_name("dvc")
    return shutil.which("dvc") or (str(beside) if beside.exists() else "dvc")
