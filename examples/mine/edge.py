"""What every small service of the mine is: a module of edgeHub (the stories' edge.py) with the same options."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.stories.edge import Edge, Json, run

__all__ = ["Edge", "Json", "arguments", "run"]


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all services have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--line", required=True, help="the production line, as the plant's tags begin")
    parser.add_argument("--connection", type=Path, required=True, help="file with the module's connection string")
    parser.add_argument("--ca", type=Path, required=True, help="PEM of edgeHub's CA")
    return parser
