"""What of MLflow takes its own library: registries without a server, and artifacts in clouds. Imported only if used.

It blocks, and reads MLflow's own settings (MLFLOW_*, AWS_*, …) where it needs them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelsync_protocol.errors import UnreachableError, UsageError
from modelsync_server.sources.port import Scratch

_INSTALL = "pip install 'modelsync-server[mlflow]'"


def version(server: str, name: str, alias: str | None, number: str) -> Mapping[str, Any]:
    """A registered model's version, by alias, number or `latest`. UsageError."""
    mlflow = _library()
    client = mlflow.MlflowClient(server, server)
    try:
        if alias:
            found = client.get_model_version_by_alias(name, alias)
        elif number == "latest":
            found = max(client.search_model_versions(f"name='{_quoted(name)}'"), key=lambda each: int(each.version))
        else:
            found = client.get_model_version(name, number)
    except ValueError:
        raise UsageError(f"{name!r:.80} has no version in MLflow.") from None
    except Exception as error:  # its stores raise errors of their own kinds
        raise _sentence(mlflow, error) from error
    return {"name": found.name, "version": str(found.version), "run_id": found.run_id, "status": found.status}


def download(server: str, uri: str, scratch: Scratch) -> Path:
    """What lies at `uri` (models:/, runs:/, s3://, gs:// …); UsageError, RefusedError for links."""
    mlflow = _library()
    place = scratch.folder / "mlflow"
    place.mkdir()
    try:
        found = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(place), tracking_uri=server)
    except ImportError as error:
        raise UsageError(f"MLflow needs {error.name!r} for {uri.partition(':')[0]}: pip install it beside.") from error
    except Exception as error:  # as above, and of every cloud's library
        raise _sentence(mlflow, error) from error
    scratch.adopt(place)
    return Path(found)


def _library() -> Any:
    try:
        import mlflow
        import mlflow.artifacts
    except ImportError as error:
        raise UsageError(
            f"this takes MLflow's own library (no server hands it out by HTTP), which is not installed: {_INSTALL}."
        ) from error
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return mlflow


def _sentence(mlflow: Any, error: Exception) -> UsageError | UnreachableError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    wrong = isinstance(error, mlflow.exceptions.MlflowException)
    return UsageError(f"MLflow says: {text}") if wrong else UnreachableError(f"MLflow can't bring it: {text}")


def _quoted(name: str) -> str:
    return name.replace("'", "''")
