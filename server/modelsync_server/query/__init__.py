"""IoT Hub's query language: parsed, matched against twin documents, projected and counted.

May import iothub. It reads no state and no network: the hub and simulations hand it documents.
"""

from modelsync_server.query.conditions import Condition, parse_condition
from modelsync_server.query.select import MAX_QUERY_CHARACTERS, Query, parse

__all__ = ["MAX_QUERY_CHARACTERS", "Condition", "Query", "parse", "parse_condition"]
