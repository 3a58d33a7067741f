"""What a person may ask for one model: rollback, hold, release. Used by the daemon, and by the CLI where none runs."""

from __future__ import annotations

from typing import Any

from modelsync_daemon.activate.activation import Activation
from modelsync_daemon.capabilities import refusals
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.pointer import Pointer
from modelsync_daemon.disk.states import PREPARING, State
from modelsync_daemon.reconcile.decision import HOLD_OPERATOR, HOLD_ROLLBACK, fingerprint
from modelsync_protocol.errors import RefusedError
from modelsync_protocol.twin import Wish


def roll_back(database: Database, activation: Activation, name: str, wish: Wish) -> Pointer:
    """Back to the kept previous version, held until the wish differs from `wish`. Raises RefusedError.

    Nothing else may be under way for `name`.
    """
    activation.check_previous(name)
    if database.model(name).state in PREPARING | {State.PROBING}:
        database.transition(name, State.WAITING)
    return activation.roll_back(name, HOLD_ROLLBACK + fingerprint(wish))


def hold(database: Database, name: str) -> None:
    """Keep what serves until `release`."""
    database.update(name, hold=HOLD_OPERATOR)


def release(database: Database, name: str) -> None:
    """End a hold and every quarantine of `name`, and have what it can't run tried again. RefusedError if there is
    nothing of these."""
    row = database.model(name)
    if not row.hold and not database.quarantined(name) and row.state != State.UNSUPPORTED:
        raise RefusedError(f"{name} is neither held nor in quarantine; there is nothing to release.")
    refusals.forget(database, name)
    database.unquarantine(name)
    database.update(name, hold="", retry_at=0, attempts=0)


def describe(pointer: Pointer) -> dict[str, Any]:
    """What a rollback answers."""
    return {
        "model": pointer.name,
        "version": pointer.version,
        "digest": pointer.digest,
        "generation": pointer.generation,
    }
