"""Which service a broker's URL names. It connects nothing."""

from __future__ import annotations

from modelsync_server.broker.address import parse
from modelsync_server.broker.aws import AwsService
from modelsync_server.broker.service import BrokerService


def open_service(url: str) -> BrokerService:
    """The service, to be entered. UsageError."""
    address = parse(url)
    return AwsService(address) if address.aws else BrokerService(address)
