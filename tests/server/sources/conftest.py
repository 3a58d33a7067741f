"""What all tests of sources need: a world without anybody's credentials, and waits that are noted instead of waited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelsync_server.sources.client import Client

_SET = ("HF_", "HUGGING_FACE_", "MLFLOW_", "AZUREML_", "AZURE_", "DOCKER_", "REGISTRY_AUTH_FILE", "XDG_", "GIT_")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that nobody has signed in from."""
    for name in list(os.environ):
        if name.startswith(_SET):
            monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return folder


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long clients would have waited, in order."""
    noted: list[float] = []

    async def pause(seconds: float) -> None:
        noted.append(seconds)

    assert Client.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "pause", pause)
    return noted
