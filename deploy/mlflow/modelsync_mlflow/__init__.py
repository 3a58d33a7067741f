"""MLflow's deployment client for modelsync stores: `mlflow deployments create -t modelsync:STORE`.

A deployment is a model of the store. Source: https://mlflow.org/docs/latest/ml/plugins (deployment plugins).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.deployments import BaseDeploymentClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError
from modelsync_server import Release, Store, open_store

_CONFIG = ("keys", "probe")
_NO_PREDICTIONS = (
    "a modelsync store answers no predictions: ask a device's modelsync-infer, or HotModel in its program."
)


def target_help() -> str:
    """What `mlflow deployments help -t modelsync` prints."""
    return (
        "The target is modelsync:STORE, where STORE is a directory or azblob://ACCOUNT/CONTAINER. A deployment is a "
        "model of the store; create and update publish a version of it, delete withdraws all. Config (-C KEY=VALUE): "
        "keys, the folder of the private keys (default: MODELSYNC_KEYS); probe, recorded inputs and outputs."
    )


def run_local(target: str, name: str, model_uri: str, flavor: str | None = None, config: Any = None) -> None:
    """Refused: there is nothing local to run."""
    raise MlflowException(f"modelsync has no local deployment: {_NO_PREDICTIONS}", INVALID_PARAMETER_VALUE)


class ModelsyncDeployments(BaseDeploymentClient):  # type: ignore[misc] # mlflow has no types
    """Deployments to one store; errors are MlflowException with our sentence."""

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self._url = target_uri.partition(":")[2]
        if not self._url:
            raise MlflowException("which store? Write -t modelsync:STORE.", INVALID_PARAMETER_VALUE)

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: Any = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Publish the first version of a model; RESOURCE_ALREADY_EXISTS if it has one."""
        store = self._store(config, endpoint)
        with _told():
            models = {model.name: model for model in store.models()}
        if name in models and models[name].versions:
            raise MlflowException(f"{name} is deployed already: update it.", RESOURCE_ALREADY_EXISTS)
        return self._published(store, name, model_uri, flavor, config)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Any = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Publish another version of a model that is there."""
        store = self._store(config, endpoint)
        self._existing(store, name)
        if model_uri is None:
            raise MlflowException("which model? Give its URI with -m.", INVALID_PARAMETER_VALUE)
        return self._published(store, name, model_uri, flavor, config)

    def delete_deployment(self, name: str, config: Any = None, endpoint: str | None = None) -> None:
        """Withdraw all versions of a model."""
        store = self._store(config, endpoint)
        model = self._existing(store, name)
        with _told():
            for version in model.versions:
                store.withdraw(name, version.version)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Models of the store that have a version."""
        with _told():
            models = self._store(None, endpoint).models()
        return [_document(model) for model in models if model.versions]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """A model's newest version, and where it was fetched from."""
        return _document(self._existing(self._store(None, endpoint), name))

    def predict(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> Any:
        """Refused."""
        raise MlflowException(_NO_PREDICTIONS, INVALID_PARAMETER_VALUE)

    def _store(self, config: Any, endpoint: str | None) -> Store:
        unknown = sorted(set(config or {}) - set(_CONFIG))
        if unknown:
            raise MlflowException(f"-C {unknown[0]} is unknown: use {' or '.join(_CONFIG)}.", INVALID_PARAMETER_VALUE)
        if endpoint is not None:
            raise MlflowException("modelsync has no endpoints: leave --endpoint away.", INVALID_PARAMETER_VALUE)
        with _told():
            return open_store(self._url, keys=(config or {}).get("keys"))

    def _existing(self, store: Store, name: str) -> Any:
        with _told():
            found = next((model for model in store.models() if model.name == name and model.versions), None)
        if found is None:
            raise MlflowException(f"{name} is not deployed: create it first.", RESOURCE_DOES_NOT_EXIST)
        return found

    def _published(self, store: Store, name: str, model_uri: str, flavor: str | None, config: Any) -> dict[str, Any]:
        probe = (config or {}).get("probe")
        if model_uri.startswith(("models:/", "runs:/")):
            with _told():
                made = store.publish(name, f"mlflow:{model_uri}", probe=probe)
        else:
            with tempfile.TemporaryDirectory(prefix="modelsync-mlflow-") as folder:
                path = mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=folder)
                with _told():
                    made = store.publish(name, Path(path), probe=probe, untrusted=True)
        return {"name": name, "flavor": flavor or "modelsync", **_made(made)}


def _made(release: Release) -> dict[str, Any]:
    return {"version": release.version, "manifest": release.digest, "install_bytes": release.install_bytes}


def _document(model: Any) -> dict[str, Any]:
    newest = model.versions[-1]
    published = None if newest.published is None else newest.published.isoformat()
    found = {"name": model.name, "version": newest.version, "manifest": newest.digest, "published": published}
    return {**found, "versions": len(model.versions), "source": newest.metadata.get("source")}


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Our errors as MLflow's, with the same sentence."""
    try:
        yield
    except ModelsyncError as error:
        code = TEMPORARILY_UNAVAILABLE if isinstance(error, UnreachableError) else INVALID_PARAMETER_VALUE
        raise MlflowException(str(error), "PERMISSION_DENIED" if isinstance(error, RefusedError) else code) from error
