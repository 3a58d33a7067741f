"""`azureml:NAME:VERSION` (or `NAME@latest`): models registered in an Azure Machine Learning workspace.

By Azure's resource manager and Blob Storage, with azure-identity and azure-storage-blob (the extra `azure`): the SDK
azure-ai-ml would bring forty packages for two requests. Source: learn.microsoft.com/rest/api/azureml, API 2024-10-01.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from yarl import URL

from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError, UsageError
from modelsync_server.sources import credentials
from modelsync_server.sources.client import Client
from modelsync_server.sources.port import Resolved, Scratch

_FORM = "write azureml:NAME:VERSION or azureml:NAME@latest"
_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,254})(?::([\w.-]{1,255})|@(latest))")
_FULL = re.compile(
    r"//subscriptions/([\w-]+)/resource[gG]roups/([\w.()-]+)/(?:providers/Microsoft\.MachineLearningServices/)?"
    r"workspaces/([\w-]+)/models/([\w.-]+)/versions/([\w.-]+)"
)
_STORED = re.compile(r"azureml://.*?/datastores/([\w-]+)/paths/(.+?)/?")
_API = "2024-10-01"
_INSTALL = "pip install 'modelsync-server[azure]'"
_HINT = "sign in with `az login`, and have the role AzureML Data Scientist on the workspace"
_VARIABLES = ("AZUREML_ARM_SUBSCRIPTION", "AZUREML_ARM_RESOURCEGROUP", "AZUREML_ARM_WORKSPACE_NAME")
_KEYS = ("subscription_id", "resource_group", "workspace_name")
_MOST_MODEL_BYTES = 1 << 20


class AzureMlModel:
    """A version of a registered model. `bearer`: gives a token of the resource manager; default: azure-identity."""

    def __init__(self, text: str, bearer: Any = None) -> None:
        """`text` is what follows `azureml:`; UsageError."""
        self._bearer = bearer
        if full := _FULL.fullmatch(text):
            self._workspace, self._name, self._version = (full[1], full[2], full[3]), full[4], full[5]
        elif found := _NAME.fullmatch(text):
            self._workspace, self._name, self._version = _workspace(), found[1], found[2] or found[3]
        else:
            raise UsageError(f"'azureml:{text:.160}' names no model: {_FORM}.")
        self._manager = URL(os.environ.get("AZURE_RESOURCE_MANAGER_URL") or "https://management.azure.com")

    @property
    def uri(self) -> str:
        """See Source."""
        return f"azureml:{self._name}{'@' if self._version == 'latest' else ':'}{self._version}"

    async def resolve(self) -> Resolved:
        """The version that `latest` means now, and where it is stored."""
        async with await self._client() as client:
            if self._version == "latest":
                asked = {"$orderBy": "createdtime desc", "$top": "1"}
                answer = await self._get(client, f"models/{self._name}/versions", asked)
                models = answer.get("value")
                if not isinstance(models, list) or not models:
                    raise UsageError(f"the workspace has no version of {self._name!r}: check the name.")
                model = models[0]
            else:
                model = await self._get(client, f"models/{self._name}/versions/{self._version}")
        match model:
            case {"name": str(version), "properties": {"modelUri": str(stored)}}:
                subscription, group, workspace = self._workspace
                registry = f"subscriptions/{subscription}/resourceGroups/{group}/workspaces/{workspace}"
                return Resolved(f"azureml://{registry}", f"azureml:{self._name}:{version}", handle=stored)
        raise UnreachableError(f"Azure does not say where {self._name!r} is stored.")

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """See Source."""
        found = _STORED.fullmatch(str(resolved.handle))
        if found is None:
            raise UsageError(f"the model is stored at {str(resolved.handle)!r:.120}; only data stores are read.")
        async with await self._client() as client:
            store = (await self._get(client, f"datastores/{found[1]}")).get("properties")
        match store:
            case {"datastoreType": "AzureBlob", "accountName": str(account), "containerName": str(container)}:
                return await _blobs(account, container, found[2], scratch)
        raise UsageError(f"the model lies in the data store {found[1]!r}, which is no Blob container.")

    async def _get(self, client: Client, what: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        subscription, group, workspace = self._workspace
        path = (
            f"subscriptions/{quote(subscription)}/resourceGroups/{quote(group)}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{quote(workspace)}/{what}"
        )
        url = (self._manager / path).with_query({"api-version": _API, **(query or {})})
        found = (await client.ask(url, limit=_MOST_MODEL_BYTES)).document()
        if not isinstance(found, dict):
            raise UnreachableError("Azure's answer can't be read; try again.")
        return found

    async def _client(self) -> Client:
        token = await (self._bearer or _token)(f"{self._manager.origin()}/.default")
        return Client(credentials.Fixed(self._manager, credentials.bearer(token)), hint=_HINT)


async def _token(scope: str) -> str:
    try:
        from azure.core.exceptions import AzureError
        from azure.identity.aio import DefaultAzureCredential
    except ImportError:
        raise LocalError(f"Azure ML needs azure-identity and azure-storage-blob: {_INSTALL}.") from None
    try:
        async with DefaultAzureCredential() as credential:
            return str((await credential.get_token(scope)).token)
    except AzureError as error:
        first = str(error).strip().partition("\n")[0]
        raise RefusedError(f"Entra ID gives no token for Azure ML: {first:.200}") from error


async def _blobs(account: str, container: str, path: str, scratch: Scratch) -> Path:
    """Bring the blob `path`, or what lies below it, with the credentials of stores (azblob://)."""
    try:
        from azure.core.exceptions import AzureError

        from modelsync_server.store.azure_account import BlobAddress, container_client
    except ImportError:
        raise LocalError(f"Azure ML needs azure-storage-blob: {_INSTALL}.") from None
    name = path.rpartition("/")[2]
    try:
        async with container_client(BlobAddress.parse(f"azblob://{account}/{container}")) as client:
            found: dict[str, int] = {}
            async for blob in client.list_blobs(name_starts_with=path):
                if blob.name == path or blob.name.startswith(f"{path}/"):
                    found[blob.name] = blob.size
                    scratch.announce(sum(found.values()), len(found))
            folders = {str(parent) for blob_name in found for parent in PurePosixPath(blob_name).parents}
            for blob_name, size in found.items():
                if size == 0 and blob_name in folders:
                    continue  # how accounts with a hierarchical namespace list a folder
                inside = blob_name.removeprefix(path).lstrip("/")
                target = scratch.place(f"{name}/{inside}" if inside else name)
                stream = await client.download_blob(blob_name)
                with target.open("xb") as file:
                    async for block in stream.chunks():
                        scratch.count(len(block))
                        file.write(block)
                if target.stat().st_size != size:
                    raise UnreachableError(f"{blob_name!r:.120} changed while it was read; try again.")
    except AzureError as error:
        raise UnreachableError(
            f"the workspace's container {account}/{container} can't be read ({type(error).__name__}): "
            "have the role Storage Blob Data Reader on it, or try again."
        ) from error
    if not found:
        raise UsageError(f"the workspace's container has nothing at {path!r:.120}.")
    return scratch.folder / name


def _workspace() -> tuple[str, str, str]:
    """As Azure ML's own tools find it: config.json here or above, else what its jobs have in the environment."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        for file in (folder / "config.json", folder / ".azureml" / "config.json"):
            try:
                found = json.loads(file.read_bytes())
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(found, dict) and all(isinstance(found.get(key), str) for key in _KEYS):
                return found[_KEYS[0]], found[_KEYS[1]], found[_KEYS[2]]
    values = [os.environ.get(name, "") for name in _VARIABLES]
    if not all(values):
        raise UsageError(
            "which Azure ML workspace? Put its config.json here (the portal has it for download), "
            f"or set {', '.join(_VARIABLES)}."
        )
    return values[0], values[1], values[2]
