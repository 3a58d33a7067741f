"""From an address to a folder that can be published: which source it is, resolved once, fetched to a private place."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelsync_protocol import near_names
from modelsync_protocol.errors import UsageError
from modelsync_server.scratch.places import temporary_folder
from modelsync_server.sources import lfs
from modelsync_server.sources.port import Resolved, Scratch, Source, listing_digest

KEY = "source"
"""Of a version's signed metadata: where it was fetched from."""

_KINDS = {
    "mlflow": ("mlflow_registry", "MlflowModel"),
    "hf": ("hugging_face", "HuggingFace"),
    "azureml": ("azure_ml", "AzureMlModel"),
    "dvc": ("dvc", "DvcOutput"),
    "oci": ("oci", "OciArtifact"),
    "git": ("git", "GitRepository"),
    "zip": ("zip_file", "ZipFile"),
}
_ADDRESS = re.compile(r"([a-z][a-z0-9]+)([:+])(.*)", re.DOTALL)
_FORMS = (
    "mlflow:models:/NAME@ALIAS, hf:ORG/REPO, azureml:NAME:VERSION, dvc:PATH, oci:REGISTRY/REPOSITORY:TAG, "
    "git+https://…, zip:FILE"
)

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched to `path`, and what of its source is signed with it."""

    path: Path
    document: dict[str, str]


def is_source(text: str) -> bool:
    """Whether `text` is the address of a source, not a path of this machine."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and found[1] in _KINDS and (found[2] == "+") == (found[1] == "git")


def parse(text: str) -> Source:
    """The source that an address names; UsageError. Only its own module is imported."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not is_source(text):
        raise UsageError(f"{text!r:.120} is no source: use {_FORMS}.")
    module, name = _KINDS[found[1]]
    return cast(Source, getattr(importlib.import_module(f"{__package__}.{module}"), name)(found[3]))


def check_path(text: str) -> None:
    """UsageError if `text` looks like an address of something that is no source, and is no path either."""
    found = _ADDRESS.fullmatch(text)
    if found is None or Path(text).exists() or (found[2] == "+" and "://" not in text):
        return
    meant = near_names.near(found[1], tuple(_KINDS))
    hint = f" (did you mean {meant}:?)" if meant else ""
    raise UsageError(f"{text!r:.120} is neither a path that exists nor a source{hint}: sources are {_FORMS}.")


@contextlib.asynccontextmanager
async def fetched(
    source: Source, resolved: Resolved | None = None, told: Told = lambda done, total: None
) -> AsyncIterator[Fetched]:
    """Fetch `source` as it was `resolved` (None: as it is now); what was fetched is gone when the block ends.

    UsageError for what is not there or too large, RefusedError for wrong bytes, names, links and credentials,
    UnreachableError, LocalError.
    """
    known = resolved or await source.resolve()
    with temporary_folder("modelsync-source-") as folder:
        path = await source.fetch(known, Scratch(folder, told))
        digest = await asyncio.to_thread(listing_digest, path)
        document = {**known.more, "uri": source.uri, "registry": known.registry, "revision": known.revision}
        yield Fetched(path, {**document, "sha256": digest})


@contextlib.asynccontextmanager
async def smudged(path: Path, told: Told = lambda done, total: None) -> AsyncIterator[Fetched | None]:
    """A copy of the file or folder at `path` with its git-lfs pointers replaced; None if it has none.

    Who publishes a pointer means what it points to.
    """
    try:
        pointers = await asyncio.to_thread(lfs.pointers_below, path)
    except OSError:  # reading the artifact says it better
        pointers = []
    if not pointers:
        yield None
        return
    with temporary_folder("modelsync-source-") as folder:
        scratch = Scratch(folder, told)
        copy = folder / path.name
        await asyncio.to_thread(_copy, path, copy)
        wanted = [(copy / file.relative_to(path) if file != path else copy, lfs.pointer(file)) for file in pointers]
        repository = path if path.is_dir() else path.absolute().parent
        await lfs.replace([(file, found) for file, found in wanted if found is not None], repository, scratch)
        digest = await asyncio.to_thread(listing_digest, copy)
        signed = {"uri": f"git-lfs:{path.name}", "registry": "a local repository", "revision": f"sha256:{digest}"}
        yield Fetched(copy, {**signed, "sha256": digest})


def _copy(path: Path, copy: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, copy, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    else:
        shutil.copyfile(path, copy)
