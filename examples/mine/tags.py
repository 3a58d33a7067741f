"""The plant's tags as OPC UA nodes: their names, their qualities as status codes, what a client reads and writes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from asyncua import ua

from examples.mine.line import MEASURED

NAMESPACE = "urn:modelsync:mine"
INDEX = 2
HISTORIZED = ("Scan", *MEASURED, "Setpoint")
"""Scan is the plant's number of the scan. It is written last and read first: whoever sees a scan sees all its tags."""

QUALITY = {
    "good": ua.StatusCodes.Good,
    "uncertain": ua.StatusCodes.UncertainSensorNotAccurate,
    "bad": ua.StatusCodes.BadSensorFailure,
}


def node(line: str, tag: str) -> ua.NodeId:
    """The node of a line's tag."""
    return ua.NodeId(f"{line}.{tag}", INDEX)


def quality(status: ua.StatusCode) -> str:
    """`good`, `uncertain` or `bad`: the severity bits of a status code (OPC UA part 4, 7.39)."""
    return ("good", "uncertain", "bad", "bad")[status.value >> 30]


def good(value: ua.DataValue) -> Any:
    """What was read, if its quality is good; None otherwise: what a bad reading holds is no reading."""
    status = value.StatusCode or ua.StatusCode()
    return value.Value.Value if value.Value is not None and quality(status) == "good" else None


def text(stamp: datetime) -> str:
    """A UTC time as text, to the microsecond, as `2026-11-29T06:56:00.296805Z`."""
    return stamp.isoformat(timespec="microseconds").replace("+00:00", "Z")


def number(value: float) -> ua.DataValue:
    """A double to write."""
    return ua.DataValue(ua.Variant(value, ua.VariantType.Double))


def counter(value: int) -> ua.DataValue:
    """An unsigned counter to write."""
    return ua.DataValue(ua.Variant(value % (1 << 32), ua.VariantType.UInt32))


def flag(value: bool) -> ua.DataValue:
    """A boolean to write."""
    return ua.DataValue(ua.Variant(value, ua.VariantType.Boolean))
