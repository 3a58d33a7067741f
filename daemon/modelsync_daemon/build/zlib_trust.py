"""Which updates this machine's zlib can carry out: it is looked at once a version, and what was found remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelsync_daemon.disk import zlib_verdict
from modelsync_protocol.offers import Offer
from modelsync_protocol.plain import reference
from modelsync_protocol.plan import UpdateChoice, choose_update
from modelsync_protocol.update import VIEWS


def best_update(held: Sequence[str], offer: Offer | None, place: Path) -> UpdateChoice | None:
    """As plan.choose_update, of all that this device can carry out; `place` is where the verdict is kept."""
    choice = choose_update(held, offer, (1, VIEWS))
    if choice is not None and choice.version == VIEWS and not packs_alike(place):
        return choose_update(held, offer)
    return choice


def packs_alike(place: Path) -> bool:
    """Whether members may be packed here."""
    known = zlib_verdict.read(place)
    if known is None:
        known = reference.is_reference()
        zlib_verdict.keep(place, known)
    return known


def distrust(place: Path) -> None:
    """Remember that a member came out otherwise than the publisher's, whatever the reference bytes say."""
    zlib_verdict.keep(place, False)
