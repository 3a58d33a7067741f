"""`azureml:`: the resource manager's answers are written by hand from its REST reference (API 2024-10-01), blobs are
Azurite's. A workspace of Azure itself is not reached here."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.storage.blob.aio import ContainerClient

from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.sources import azure_ml, fetching
from modelsync_server.sources.azure_ml import AzureMlModel
from tests.support.azurite import ACCOUNT
from tests.support.source_server import Reply, SourceServer

WORKSPACE = "/subscriptions/s-1/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/shop"
API = "api-version=2024-10-01"
STORED = "azureml://subscriptions/s-1/resourceGroups/group/workspaces/shop/datastores/blobs/paths/LocalUpload/1/model"


def model(version: str, stored: str = STORED) -> dict[str, object]:
    properties = {"modelUri": stored, "modelType": "custom_model", "isArchived": False}
    return {"id": f"{WORKSPACE}/models/anomaly/versions/{version}", "name": version, "properties": properties}


@pytest.fixture
async def server(azurite_service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SourceServer]:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite_service)
    monkeypatch.chdir(tmp_path)
    workspace = {"subscription_id": "s-1", "resource_group": "group", "workspace_name": "shop"}
    (tmp_path / "config.json").write_text(json.dumps(workspace))
    container = f"ml{secrets.token_hex(6)}"
    store = {"datastoreType": "AzureBlob", "accountName": ACCOUNT, "containerName": container}
    latest = f"{WORKSPACE}/models/anomaly/versions?{API}&$orderBy=createdtime+desc&$top=1"
    table = {
        f"{WORKSPACE}/models/anomaly/versions/3?{API}": Reply.document(model("3")),
        latest: Reply.document({"value": [model("4")]}),
        f"{WORKSPACE}/datastores/blobs?{API}": Reply.document({"name": "blobs", "properties": store}),
    }
    async with (
        ContainerClient.from_connection_string(azurite_service, container) as blobs,
        SourceServer(table) as found,
    ):
        await blobs.create_container()
        for name, data in (
            ("model/model.onnx", b"m" * 5000),
            ("model/x/labels.txt", b"l"),
            ("model/x", b""),
            ("model", b""),
            ("model2/no", b"n"),
        ):
            await blobs.upload_blob(f"LocalUpload/1/{name}", data)
        monkeypatch.setenv("AZURE_RESOURCE_MANAGER_URL", found.url)

        async def token(scope: str) -> str:
            assert scope == f"{found.url}/.default"
            return "entra"

        monkeypatch.setattr(azure_ml, "_token", token)
        yield found


async def refused(text: str, kind: type[ModelsyncError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        async with fetching.fetched(fetching.parse(text)):
            pass
    assert str(caught.value).endswith(".")
    for word in words:
        assert word in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("azureml:anomaly:3", "3"),
        ("azureml:anomaly@latest", "4"),
        ("azureml://subscriptions/s-1/resourceGroups/group/workspaces/shop/models/anomaly/versions/3", "3"),
    ],
)
async def test_a_registered_model_is_fetched_from_its_data_store(server: SourceServer, text: str, version: str) -> None:
    async with fetching.fetched(fetching.parse(text)) as found:
        files = {p.relative_to(found.path).as_posix(): p.read_bytes() for p in found.path.rglob("*") if p.is_file()}
        assert files == {"model.onnx": b"m" * 5000, "x/labels.txt": b"l"}
        assert found.document["revision"] == f"azureml:anomaly:{version}"
        assert "entra" not in str(found.document)
    assert {each.secret for each in server.asked} == {"Bearer entra"}


async def test_one_file_is_a_file(server: SourceServer) -> None:
    key = f"{WORKSPACE}/models/anomaly/versions/3?{API}"
    server.table[key] = Reply.document(model("3", f"{STORED}/model.onnx"))
    async with fetching.fetched(fetching.parse("azureml:anomaly:3")) as found:
        assert found.path.name == "model.onnx" and found.path.read_bytes() == b"m" * 5000


async def test_what_azure_refuses_or_lacks_is_one_sentence(server: SourceServer, tmp_path: Path) -> None:
    await refused("azureml:anomaly:9", UsageError, "no such thing")
    server.fault = lambda asked, reply: Reply.document({"error": {"message": "no"}}, 403)
    await refused("azureml:anomaly:3", RefusedError, "az login")
    server.fault = lambda asked, reply: Reply.document({"value": []})
    await refused("azureml:anomaly@latest", UsageError, "no version")
    await refused("azureml:anomaly:3", UnreachableError)
    server.fault = lambda asked, reply: (
        Reply.document(model("3", "https://elsewhere/x")) if "models" in asked.path else None
    )
    await refused("azureml:anomaly:3", UsageError, "data stores")
    server.fault = lambda asked, reply: Reply.document(model("3", f"{STORED}/nope")) if "models" in asked.path else None
    await refused("azureml:anomaly:3", UsageError, "nothing at")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="which Azure ML workspace"):
        AzureMlModel("anomaly:3")


@pytest.mark.parametrize("text", ["azureml:", "azureml:x", "azureml:a/b:1", "azureml:x@newest"])
def test_addresses_that_name_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="names no model"):
        fetching.parse(text)
