"""The table of a model's states: which there are, which may follow which, and why. No I/O here.

The orchestrator, the database, docs/states.md and the tests all read this table.
"""

from __future__ import annotations

from enum import StrEnum

from modelsync_protocol.errors import ModelsyncError


class State(StrEnum):
    """Where a model stands on this device; the values are what status and the twin show."""

    IDLE = "idle"
    RESOLVING = "resolving"
    PLANNING = "planning"
    FETCHING = "fetching"
    ASSEMBLING = "assembling"
    PROBING = "probing"
    ACTIVATING = "activating"
    PROBATION = "probation"
    ACTIVE = "active"
    ROLLED_BACK = "rolled back"
    QUARANTINED = "quarantined"
    WAITING = "waiting"
    UNSUPPORTED = "unsupported"


SETTLED = frozenset({State.IDLE, State.ACTIVE, State.ROLLED_BACK, State.QUARANTINED, State.WAITING, State.UNSUPPORTED})
"""Nothing is under way; a restart leaves these alone."""

PREPARING = frozenset({State.RESOLVING, State.PLANNING, State.FETCHING, State.ASSEMBLING})
"""The worker's states; a restart resumes them from `resolving`, with what the journal holds."""

SWITCHING = frozenset({State.PROBING, State.ACTIVATING, State.PROBATION})
"""The version lies complete on the disk; a restart goes on without the network."""

_START = "a version is desired that does not serve"
_FAILED = "it can't go on now: offline, budget, window, network, disk or held"
_REFUSED = "trust, damage, the probe or the inference process refused it"
_AGAIN = "the daemon was restarted, or something newer is desired"

TRANSITIONS: dict[tuple[State, State], str] = {
    **{(state, State.RESOLVING): _START for state in SETTLED},
    **{(state, State.RESOLVING): _AGAIN for state in PREPARING | SWITCHING},
    (State.RESOLVING, State.PLANNING): "the manifest is known and signed",
    (State.PLANNING, State.FETCHING): "something is missing and the plan is within budget",
    (State.PLANNING, State.ASSEMBLING): "all bytes are held already",
    (State.FETCHING, State.ASSEMBLING): "all frames are in place",
    (State.ASSEMBLING, State.FETCHING): "a damaged seed must be fetched after all",
    **{(state, State.PROBING): "the version lies complete on the disk" for state in PREPARING},
    (State.PROBING, State.ACTIVATING): "the probe passed, or no inference process is registered",
    (State.ACTIVATING, State.PROBING): "the daemon was restarted before the pointer was written",
    (State.ACTIVATING, State.PROBATION): "an inference process serves it",
    (State.ACTIVATING, State.ACTIVE): "no inference process watches it",
    (State.ACTIVATING, State.ROLLED_BACK): "the pointer names the previous version again",
    (State.PROBATION, State.ACTIVE): "it served long enough without a rise in errors",
    (State.PROBATION, State.ACTIVATING): "errors or a crash loop: back to the previous version",
    (State.PROBATION, State.QUARANTINED): "errors or a crash loop, and no previous version to go back to",
    **{
        (state, State.ACTIVATING): "back to the previous version, asked for here or from the cloud" for state in SETTLED
    },
    (State.RESOLVING, State.UNSUPPORTED): "this device lacks what the version requires; nothing of it is fetched",
    **{(state, State.WAITING): _FAILED for state in (SETTLED | PREPARING | SWITCHING) - {State.WAITING}},
    **{(state, State.QUARANTINED): _REFUSED for state in PREPARING | {State.PROBING, State.ACTIVATING}},
    (State.ACTIVE, State.QUARANTINED): "what is desired is in quarantine; the version that serves goes on",
    (State.UNSUPPORTED, State.QUARANTINED): "what is desired is in quarantine; the version that serves goes on",
    (State.WAITING, State.QUARANTINED): "what is desired is in quarantine; the version that serves goes on",
    (
        State.ROLLED_BACK,
        State.QUARANTINED,
    ): "what is desired is in quarantine; the version that serves goes on",
    **{(state, State.ACTIVE): "what serves is what is desired" for state in SETTLED - {State.ACTIVE}},
    **{(state, State.ACTIVE): "the wish was withdrawn; what serves goes on" for state in PREPARING | {State.PROBING}},
    **{(state, State.IDLE): "the model was removed, or nothing is desired" for state in State if state != State.IDLE},
}
"""Every allowed step and its reason. A step to the same state is allowed and only updates details."""


class TransitionError(ModelsyncError):
    """A step that the table does not know: a defect of this program, never of its input."""


def check(before: State, after: State) -> None:
    """Raise TransitionError unless a model may go from `before` to `after`."""
    if before != after and (before, after) not in TRANSITIONS:
        raise TransitionError(f"a model can't go from {before} to {after}; please report this as a defect.")


def mermaid() -> str:
    """The table as a Mermaid state diagram, one line a step, in the table's order of states."""
    ids = {state: state.value.replace(" ", "_") for state in State}
    lines = ["stateDiagram-v2", f"    [*] --> {ids[State.IDLE]}"]
    lines += [f"    {ids[a]} --> {ids[b]}" for a in State for b in State if (a, b) in TRANSITIONS]
    return "\n".join(lines) + "\n"


def reasons() -> str:
    """The table as Markdown rows `| from | to | reason |`, one per step."""
    rows = [f"| {a} | {b} | {TRANSITIONS[a, b]} |" for a in State for b in State if (a, b) in TRANSITIONS]
    return "\n".join(["| from | to | because |", "|---|---|---|", *rows]) + "\n"
