"""A running hub on an address of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.addresses import loopback_address


@pytest.fixture
def address(worker_id: str) -> HubAddress:
    """A loopback address with port 8883 for the SDK and any port for REST."""
    return HubAddress(loopback_address(worker_id), service_port=0)


@pytest.fixture
async def hub(tmp_path: Path, address: HubAddress) -> AsyncIterator[Hub]:
    async with Hub(tmp_path / "hub", address) as running:
        yield running
