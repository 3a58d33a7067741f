"""Fixtures for the whole suite: what is costly to start is started once per test process."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest

from tests.support.azurite import azurite
from tests.support.cloud_servers import fake_gcs, moto
from tests.support.whole_run import pytest_configure as pytest_configure


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell that runs the suite behind itself has it ignore Ctrl-C, and what the suite starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Publishers in tests keep nothing in the developer's cache, and find nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELSYNC_CACHE_BYTES", "0")
        yield


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Noise and pauses of a test are the same each time it runs, beside others and alone. Names are from `secrets`."""
    random.seed(request.node.nodeid)


@pytest.fixture(scope="session")
def azurite_service() -> Iterator[str]:
    """The connection string of a blob service in memory."""
    with azurite() as text:
        yield text


@pytest.fixture(scope="session")
def s3_service() -> Iterator[str]:
    """The endpoint of an S3 in memory."""
    with moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def gcs_service() -> Iterator[str]:
    """The URL of a Google Cloud Storage in memory (its JSON API)."""
    with fake_gcs() as url:
        yield url
