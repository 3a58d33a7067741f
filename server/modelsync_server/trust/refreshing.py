"""What a refresh signs again, and what it tells the operator; signing and writing is repository.py's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import Metadata

from modelsync_protocol import trust
from modelsync_server.trust import signing
from modelsync_server.trust.keys import KeyStore
from modelsync_server.trust.metadata import State


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a refresh did: until when the timestamps are believed, and sentences for the operator."""

    expires: datetime
    warnings: tuple[str, ...]


def due(state: State, keys: KeyStore, warnings: list[str]) -> set[str]:
    """The chain's targets roles that are past their half-life and can be signed here; a warning for one that can't."""
    changed = {role for role, meta in state.roles.items() if signing.past_half_life(meta, role)}
    if signing.past_half_life(state.targets, "targets"):
        if signing.can_sign(keys, "targets", state.root):
            changed.add("targets")
        elif (sentence := bring("targets", state.targets)) not in warnings:
            warnings.append(sentence)
    return changed


def pass_by(state: State, others: Sequence[State]) -> None:
    """Number the shared chain's next files above all others': an origin that passes a model's own timestamp off as the
    shared one must not lead daemons that know no own chains ahead of what comes next."""
    for role in ("timestamp", "snapshot"):
        signed = _metadata(state, role).signed
        signed.version = max([signed.version, *(_metadata(other, role).signed.version for other in others)])


def _metadata(state: State, role: str) -> Metadata[Any]:
    return state.timestamp if role == "timestamp" else state.snapshot


def late(states: Sequence[State]) -> Iterator[str]:
    """A sentence for each of timestamp and snapshot that was past its half-life, on the chain that expires first."""
    for role in ("timestamp", "snapshot"):
        found = [state for state in states if signing.past_half_life(_metadata(state, role), role)]
        if found:
            first = min(found, key=lambda state: _metadata(state, role).signed.expires)
            whose = "" if first.chain is None else f" of {first.chain!r}"
            more = f", and {len(found) - 1} more were" if len(found) > 1 else ""
            yield (
                f"the {role}{whose} was past its half-life (it expires {_when(_metadata(first, role))}){more}: "
                "let a timer run `modelsync refresh` daily."
            )


def _when(metadata: Metadata[Any]) -> str:
    return trust.format_time(metadata.signed.expires)


def bring(role: str, metadata: Metadata[Any]) -> str:
    return (
        f"the {role} metadata expires {_when(metadata)} and its keys are not here: "
        "run `modelsync refresh` once with the offline keys."
    )
