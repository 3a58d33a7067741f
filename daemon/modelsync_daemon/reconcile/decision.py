"""Decides what is to be done for one model, from what is desired and what is here. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from modelsync_daemon.disk.database import ModelRow, Quarantined
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.disk.states import State
from modelsync_protocol.twin import Wish

HOLD_ROLLBACK = "rollback:"
"""A hold that a rollback set: it ends when the wish differs from the one that follows the colon."""

HOLD_OPERATOR = "operator"
"""A hold that only a release ends."""


MAX_WAIT_SECONDS = 90_000
"""No wait is longer (a budget's is a day): a retry further ahead means that the clock was set back."""


class Step(Enum):
    """What to do next."""

    NOTHING = "nothing"
    SETTLE = "settle"
    PREPARE = "prepare"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model. `opens` is seconds until fetching is allowed (window), `now` epoch seconds.

    `wrong_policy` says what of the twin's policy can't be read, if that closes it; `network` why this network allows
    no fetching.
    `lacking`: the device is what it was when it could not run what is desired.
    """

    row: ModelRow
    wish: Wish
    now: float
    serving: Reference | None = None
    present: bool = False
    quarantined: Mapping[str, Quarantined] = field(default_factory=dict)
    origin: str | None = None
    held_by_policy: bool = False
    opens: float = 0.0
    wrong_policy: str = ""
    network: str = ""
    lacking: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A step; for SETTLE the state and why (an error code and a sentence), for NOTHING when to look again."""

    step: Step
    state: State = State.IDLE
    code: str = ""
    text: str = ""
    again: float | None = None
    lift_hold: bool = False
    fresh: bool = False


def fingerprint(wish: Wish) -> str:
    """What a wish is, for comparing it with a later one."""
    return json.dumps([wish.version, wish.absent, wish.retry])


def holds(row: ModelRow, wish: Wish) -> bool:
    """Whether the row's own hold is in force against `wish`."""
    if row.hold.startswith(HOLD_ROLLBACK):
        return row.hold == HOLD_ROLLBACK + fingerprint(wish)
    return bool(row.hold)


def decide(facts: Facts) -> Decision:
    """The next step for a model that has no task running. `lift_hold`: its hold ended; `fresh`: a new wish."""
    held = holds(facts.row, facts.wish)
    decision = _decide(facts, held or facts.held_by_policy)
    return Decision(
        decision.step,
        decision.state,
        decision.code,
        decision.text,
        decision.again,
        lift_hold=bool(facts.row.hold) and not held,
        fresh=facts.row.desired != fingerprint(facts.wish),
    )


def _decide(facts: Facts, held: bool) -> Decision:
    row, wish = facts.row, facts.wish
    rest = State.ACTIVE if facts.serving else State.IDLE
    if wish.absent:
        if held:
            return _settle(row, State.WAITING, "held", "a hold keeps this model from being removed; release it.")
        return Decision(Step.REMOVE) if facts.present else Decision(Step.NOTHING)
    if wish.version is None:
        return _settle(row, State.ROLLED_BACK if row.state == State.ROLLED_BACK else rest)
    if facts.serving is not None and facts.serving.version == wish.version:
        stuck = facts.quarantined.get(facts.serving.digest)
        if stuck is not None and stuck.retry == wish.retry:
            return _refused(row, stuck)
        return _settle(row, State.ACTIVE)
    if held:
        if row.state == State.ROLLED_BACK:
            return Decision(Step.NOTHING)
        return _settle(row, State.WAITING, "held", f"a hold keeps version {wish.version} out; release it.")
    for refused in facts.quarantined.values():
        if refused.version == wish.version and refused.retry == wish.retry:
            return _refused(row, refused)
    if row.state == State.UNSUPPORTED and facts.lacking and row.desired == fingerprint(wish):
        return Decision(Step.NOTHING)
    if facts.origin is None:
        return _settle(row, State.WAITING, "origin", "the twin names no usable origin; set modelsync.origin.")
    same = row.desired == fingerprint(wish)
    if facts.wrong_policy:
        return _settle(
            row, State.WAITING, "policy", f"the policy is wrong, so nothing is fetched: {facts.wrong_policy}"
        )
    if facts.network:
        return _settle(row, State.WAITING, "network", facts.network)
    if facts.opens > 0:
        again = facts.now + facts.opens
        settled = _settle(row, State.WAITING, "window", "fetching is outside its time window; it waits.")
        return Decision(settled.step, settled.state, settled.code, settled.text, again)
    if same and row.state == State.WAITING and 0 < row.retry_at - facts.now < MAX_WAIT_SECONDS:
        return Decision(Step.NOTHING, again=row.retry_at)
    return Decision(Step.PREPARE)


def _refused(row: ModelRow, refused: Quarantined) -> Decision:
    if row.state in (State.QUARANTINED, State.ROLLED_BACK) and row.error_text == refused.reason:
        return Decision(Step.NOTHING)
    return Decision(Step.SETTLE, State.QUARANTINED, "quarantined", refused.reason)


def _settle(row: ModelRow, state: State, code: str = "", text: str = "") -> Decision:
    if row.state == state and row.error_code == code and (row.error_text == text or not code):
        return Decision(Step.NOTHING)
    return Decision(Step.SETTLE, state, code, text)
