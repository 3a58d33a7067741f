"""Status and operations on a data directory in which no daemon runs. Writing takes the directory's lock first."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelsync_daemon.activate.activation import Activation, Patience
from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.disk import garbage
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.ledger import Ledger
from modelsync_daemon.reconcile import carried_report, operations
from modelsync_daemon.reconcile import status as documents
from modelsync_daemon.reconcile.desired import DesiredState
from modelsync_protocol import names, near_names
from modelsync_protocol.errors import LocalError, RefusedError


def status(root: Path) -> dict[str, Any]:
    """The status document, read from disk; takes no lock. Raises LocalError."""
    data = DataDir(root)
    try:
        with contextlib.closing(Database(data.state_db)) as database:
            desired = DesiredState(database).now.models
            return documents.build(data, database, Ledger(database), desired, {}, running=False, connected=False)
    except sqlite3.Error as error:
        raise LocalError(f"{data.state_db} can't be read ({error}); the next run or pull rebuilds it.") from error


def report(root: Path) -> dict[str, Any]:
    """What is to be carried to the hub. Raises LocalError if the directory is in use."""
    data = DataDir(root)
    with data.lock(), contextlib.closing(Database.open(data)) as database:
        desired = DesiredState(database).now
        now = documents.build(data, database, Ledger(database), desired.models, {}, running=False, connected=False)
        return carried_report.build(database, now, desired.problems)


def collect(root: Path) -> dict[str, Any]:
    """Remove what nothing refers to. Raises LocalError if the directory is in use."""
    data = DataDir(root)
    with data.lock(), contextlib.closing(Database.open(data)) as database:
        data.clean()
        return asdict(garbage.collect(data, database))


def operate(root: Path, operation: str, name: str) -> dict[str, Any]:
    """Do `rollback`, `hold` or `release` of `name` directly. Raises LocalError if the directory is in use."""
    names.check_model_name(name)
    data = DataDir(root)
    with data.lock(), contextlib.closing(Database.open(data)) as database:
        if database.model(name).since == 0:
            meant = near_names.hint(name, (row.name for row in database.models()))
            raise RefusedError(f"{name} is not a model of this device{meant}.")
        if operation == "hold":
            operations.hold(database, name)
        elif operation == "release":
            operations.release(database, name)
        else:
            activation = Activation(data, database, Processes(), Patience())
            return operations.describe(
                operations.roll_back(database, activation, name, DesiredState(database).of(name))
            )
    return {}
