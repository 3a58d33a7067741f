"""`snapshot_download` and `hf_hub_download` as huggingface_hub's users know them, over `pull`.

A program that loads its model with these two changes its import and says where its store is; everything else
(updates instead of downloads, signatures, quarantine) is `pull`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelsync_protocol import names
from modelsync_protocol.errors import FormatError, UsageError

_SETTINGS = {"endpoint": "MODELSYNC_ORIGIN", "local_dir": "MODELSYNC_DATA", "trust": "MODELSYNC_TRUST"}
"""Where what is not given comes from: the daemon's own variables."""


def snapshot_download(
    repo_id: str,
    *,
    revision: str | int | None = None,
    endpoint: str | None = None,
    local_dir: str | Path | None = None,
    trust: str | Path | None = None,
    local_files_only: bool = False,
) -> str:
    """Fetch a model and return the path of its folder, as huggingface_hub's function of this name does.

    `repo_id` is the model's name, `revision` a version (default: the newest), `endpoint` the store's URL, `local_dir`
    the data directory, `trust` the publisher's root.json, needed once. What is not given is MODELSYNC_ORIGIN,
    MODELSYNC_DATA and MODELSYNC_TRUST. `local_files_only`: what serves on this device, without asking anybody; may be
    called while a daemon owns the directory. The folder is one version's: it stays as it is while a newer one is
    fetched. Call it outside an event loop.

    UsageError for what is missing or wrong, RefusedError for what trust forbids, UnreachableError, LocalError.
    """
    from modelsync_daemon.api import pull, status

    names.check_model_name(repo_id)
    version = None if revision is None else _version(revision)
    data = Path(_setting("local_dir", local_dir))
    if local_files_only:
        model = status(data).models.get(repo_id)
        if model is None or model.path is None or (version is not None and model.version != version):
            what = repo_id if version is None else f"version {version} of {repo_id}"
            raise UsageError(f"{what} does not serve on this device: call it without local_files_only once.")
        return str(model.path)
    origin = _setting("endpoint", endpoint)
    known = trust if trust is not None else os.environ.get(_SETTINGS["trust"])
    return str(pull(repo_id, origin, data, trust=known, version=version).path)


def hf_hub_download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    revision: str | int | None = None,
    endpoint: str | None = None,
    local_dir: str | Path | None = None,
    trust: str | Path | None = None,
    local_files_only: bool = False,
) -> str:
    """Fetch a model and return the path of one of its files, as huggingface_hub's function of this name does.

    The whole version is fetched: its files are one update. Everything else as `snapshot_download`.
    """
    inside = f"{subfolder.strip('/')}/{filename}" if subfolder else filename
    try:
        names.check_relative_path(inside)
    except FormatError as error:
        raise UsageError(f"the file name {error}") from error
    folder = snapshot_download(
        repo_id,
        revision=revision,
        endpoint=endpoint,
        local_dir=local_dir,
        trust=trust,
        local_files_only=local_files_only,
    )
    found = Path(folder) / inside
    if not found.is_file():
        there = ", ".join(sorted(path.name for path in Path(folder).iterdir())[:5])
        raise UsageError(f"{repo_id} has no file {inside!r:.120}: it has {there}.")
    return str(found)


def _setting(name: str, given: str | Path | None) -> str:
    value = str(given) if given is not None else os.environ.get(_SETTINGS[name], "")
    if not value:
        raise UsageError(f"{name} is not given: pass it, or set {_SETTINGS[name]}.")
    return value


def _version(revision: str | int) -> int:
    """`main` and the like are of other hubs: here versions are numbers."""
    text = str(revision).removeprefix("v")
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{revision!r:.40} is no version: give a number, or leave revision away for the newest.")
    return names.check_version(int(text))
