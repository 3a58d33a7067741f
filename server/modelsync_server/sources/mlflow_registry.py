"""`mlflow:models:/NAME@ALIAS`, `/NAME/VERSION`, `/NAME/latest`, `/m-ID` with a path inside; `mlflow:runs:/RUN/PATH`.

A tracking server on HTTP is asked by its REST interface. What that can't do is mlflow's own library's (the extra
`mlflow`): artifacts that the server does not hand out itself, and registries that are a database or a folder.
Source: https://mlflow.org/docs/latest/rest-api.html.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from yarl import URL

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, RefusedError, UnreachableError, UsageError
from modelsync_server.sources import credentials, mlflow_library
from modelsync_server.sources.client import Client
from modelsync_server.sources.port import Resolved, Scratch

_FORM = "write mlflow:models:/NAME@ALIAS, mlflow:models:/NAME/VERSION or mlflow:runs:/RUN/PATH"
_MODEL = re.compile(r"models:/([^/@]+)(?:@([^/]+)|/(\d{1,18}|latest))((?:/.*)?)")
_LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})((?:/.*)?)")
_RUN = re.compile(r"runs:/([0-9a-zA-Z_-]{1,64})/(.+)")
_HINT = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_API = "api/2.0/mlflow"
_ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
_MOST_HOPS = 4
_MOST_NESTED = 64
_REGISTRY, _TRACKING = "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI"


class MlflowModel:
    """A registered model's version, a logged model, or a run's artifact."""

    def __init__(self, text: str) -> None:
        """`text` is what follows `mlflow:`; UsageError."""
        self._text = text
        if not (_LOGGED.fullmatch(text) or _MODEL.fullmatch(text) or _RUN.fullmatch(text)):
            raise UsageError(f"'mlflow:{text:.160}' names no model: {_FORM}.")
        self._tracking = os.environ.get(_TRACKING, "")
        server = os.environ.get(_REGISTRY) or self._tracking
        if not server:
            raise UsageError(f"which MLflow server? Set {_TRACKING}, as in {_TRACKING}=https://mlflow.example.")
        self._server = server
        self._http = _http(server) if server.startswith(("http://", "https://")) else None

    @property
    def uri(self) -> str:
        """See Source."""
        return f"mlflow:{self._text}"

    @property
    def watched(self) -> tuple[str, str] | None:
        """Registered model and alias, where that is what is named: what its webhooks are about."""
        found = None if _LOGGED.fullmatch(self._text) else _MODEL.fullmatch(self._text)
        return (found[1], found[2]) if found is not None and found[2] else None

    async def resolve(self) -> Resolved:
        """The version that an alias names now, in one request."""
        if found := _LOGGED.fullmatch(self._text):
            return Resolved(self._registry, f"models:/{found[1]}{found[2]}")
        if _RUN.fullmatch(self._text):
            return Resolved(self._registry, self._text, {"run": self._text.split("/")[1]})
        found = _MODEL.fullmatch(self._text)
        assert found is not None  # the constructor looked
        name, alias, version, inside = found.groups()
        if self._http is None:
            model = await asyncio.to_thread(mlflow_library.version, self._server, name, alias, version)
        else:
            async with self._client() as client:
                model = await self._version(client, name, alias, version)
        number, run = str(model.get("version", "")), model.get("run_id")
        if not number.isdigit() or model.get("name") != name:
            raise UnreachableError(f"the MLflow server does not say which version {self._text!r:.120} is.")
        if model.get("status", "READY") != "READY":
            raise UnreachableError(f"version {number} of {name!r:.80} is not ready in MLflow; try again later.")
        more = {"run": run} if isinstance(run, str) and run else {}
        return Resolved(self._registry, f"models:/{name}/{number}{inside}", more)

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """See Source."""
        if self._http is None:
            return await asyncio.to_thread(mlflow_library.download, self._server, resolved.revision, scratch)
        async with self._client() as client:
            uri = await self._artifact_uri(client, resolved.revision)
            parts = urlsplit(uri)
            if parts.scheme == "mlflow-artifacts" and not parts.netloc:
                path = parts.path.strip("/")
                return await self._download(client, path, resolved.revision, scratch)
        if parts.scheme in ("", "file"):
            raise RefusedError(
                f"the MLflow server says that {resolved.revision!r:.120} lies at {uri!r:.80}, a path of some machine: "
                "start it with --artifacts-destination, or publish that path itself."
            )
        return await asyncio.to_thread(mlflow_library.download, self._server, uri, scratch)

    @property
    def _registry(self) -> str:
        """Whose answer it is; of a database no more than its kind, for its address may hold a password."""
        return str(self._http) if self._http is not None else urlsplit(self._server).scheme or "a folder"

    async def _version(self, client: Client, name: str, alias: str | None, version: str) -> Mapping[str, Any]:
        key = "model_version"
        if alias:
            found = await self._get(client, "registered-models/alias", name=name, alias=alias)
        elif version == "latest":
            found = await self._get(client, "registered-models/get", name=name)
            newest = (found.get("registered_model") or {}).get("latest_versions") or []
            found = {key: max(newest, key=lambda each: int(each.get("version", 0)), default={})}
        else:
            found = await self._get(client, "model-versions/get", name=name, version=version)
        model = found.get(key)
        return model if isinstance(model, dict) else {}

    async def _artifact_uri(self, client: Client, revision: str) -> str:
        """Where a revision's artifacts lie, through what refers to what refers to it."""
        inside = ""
        for _ in range(_MOST_HOPS):
            if found := _LOGGED.fullmatch(revision):
                answer = await self._get(client, f"logged-models/{found[1]}")
                revision, more = _text(answer, "model", "info", "artifact_uri"), found[2]
            elif found := _RUN.fullmatch(revision):
                answer = await self._get(client, "runs/get", run_id=found[1])
                revision, more = _text(answer, "run", "info", "artifact_uri"), f"/{found[2]}"
            elif found := _MODEL.fullmatch(revision):
                answer = await self._get(client, "model-versions/get-download-uri", name=found[1], version=found[3])
                revision, more = _text(answer, "artifact_uri"), found[4]
            else:
                return revision.rstrip("/") + inside
            inside = more.rstrip("/") + inside
        raise RefusedError("the MLflow server refers from one model to the next in a circle.")

    async def _download(self, client: Client, path: str, revision: str, scratch: Scratch) -> Path:
        files: dict[str, int] = {}
        await self._list(client, path, "", files)
        name = _name(revision)
        if not files:  # a file has no listing
            target = scratch.place(name)
            await client.download(self._artifact(path), target, scratch)
            return target
        scratch.announce(sum(files.values()), len(files))
        for inside, size in files.items():
            target = scratch.place(f"{name}/{inside}")
            await client.download(self._artifact(f"{path}/{inside}"), target, scratch, size=size)
        return scratch.folder / name

    async def _list(self, client: Client, root: str, below: str, files: dict[str, int], folders: int = 0) -> int:
        """Fill `files` with sizes by path below `root`; returns how many folders were looked into so far."""
        assert self._http is not None
        if below.count("/") > _MOST_NESTED:
            raise FormatError(f"the model in MLflow has folders nested more than {_MOST_NESTED} deep.")
        if folders > caps.MAX_FILES:
            raise UsageError("the model in MLflow has more folders than a model may have files.")
        path = f"{root}/{below}".rstrip("/")
        listing = (await client.ask((self._http / _ARTIFACTS).with_query(path=path))).document()
        entries = listing.get("files", []) if isinstance(listing, dict) else None
        if not isinstance(entries, list):
            raise UnreachableError("the MLflow server's listing of artifacts can't be read.")
        for entry in entries:
            match entry:
                case {"path": str(name), "is_dir": True}:
                    if "/" in name or name in ("", ".", ".."):
                        raise FormatError(f"the MLflow server lists a folder {name!r:.80}, which leads elsewhere.")
                    folders = await self._list(client, root, f"{below}{name}/", files, folders + 1)
                case {"path": str(name), "file_size": int(size)} if size >= 0:
                    files[f"{below}{name}"] = size
                case _:
                    raise UnreachableError("the MLflow server lists an artifact without its size.")
            if len(files) > caps.MAX_FILES:
                raise UsageError(f"the model in MLflow has more than {caps.MAX_FILES:,} files, which a model may not.")
        return folders

    async def _get(self, client: Client, what: str, **query: str) -> dict[str, Any]:
        assert self._http is not None
        found = (await client.ask((self._http / _API / what).with_query(query))).document()
        if not isinstance(found, dict):
            raise UnreachableError("the MLflow server's answer can't be read: check that its address is right.")
        return found

    def _artifact(self, path: str) -> URL:
        return URL(f"{self._http}/{_ARTIFACTS}/{quote(path)}", encoded=True)

    def _client(self) -> Client:
        assert self._http is not None
        ca = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        return Client(credentials.mlflow(self._http), hint=_HINT, ca=ca)


def _http(server: str) -> URL:
    try:
        found = URL(server.rstrip("/"))
    except ValueError:
        found = URL()
    if not found.host or found.query_string or found.fragment:
        raise UsageError(f"{_TRACKING} is no address of a server, such as https://mlflow.example.")
    if found.user:
        raise UsageError(f"{_TRACKING} holds a user: {_HINT} instead, so that it is written down nowhere.")
    return found


def _name(revision: str) -> str:
    """How the file or folder is called: the path's last part, else the model's name."""
    if found := _LOGGED.fullmatch(revision):
        return found[2].rstrip("/").rpartition("/")[2] or found[1]
    if found := _RUN.fullmatch(revision):
        return found[2].rstrip("/").rpartition("/")[2]
    found = _MODEL.fullmatch(revision)
    assert found is not None  # it was resolved
    return found[4].rstrip("/").rpartition("/")[2] or found[1]


def _text(document: Any, *keys: str) -> str:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    if not isinstance(document, str) or not document:
        raise UnreachableError("the MLflow server does not say where the model's artifacts lie.")
    return document
