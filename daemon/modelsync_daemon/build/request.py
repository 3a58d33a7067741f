"""What is asked of pipeline.py, what comes back, and who is told meanwhile. Nothing is done here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelsync_daemon.transfer.errors import BudgetExceeded, TooLargeHere
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_daemon.trust.resolved import Fetch, Resolved


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """What to prepare. `version` None: the newest. `trust_root`: root.json that seeds an empty data directory.

    `rate_limit` is in bytes a second, `byte_limit` what the budget has left (None: no limit); digests in
    `quarantined` are refused. `secrets` are files that may hold the secret query of the origin's URL, `read_secret`
    reads one of them (None: this process does). `pushed`: take everything from this file (see pushed_origin.py) and
    nothing from the origin; `media`: the same from an offline medium (media_origin.py). `repair`: digest of
    the version, which is installed and damaged; it is mended where it lies. `site`: neighbours to share the
    origin with; `anew`: go on from nothing that an earlier attempt left, since neighbours may have given it.
    `update_limit`: bytes that may still be lacking on this network, whose rule is called `network`.
    `capabilities`: what this device has (None: what the version requires does not matter);
    `refuse_unknown`: a requirement that nobody here knows counts as missing.
    """

    name: str
    version: int | None
    origin: str
    data: Path
    origin_ca: Path | None = None
    trust_root: Path | None = None
    stall_seconds: float = 60.0
    rate_limit: int | None = None
    byte_limit: int | None = None
    quarantined: frozenset[str] = frozenset()
    secrets: tuple[Path, ...] = ()
    proxy: str | None = None
    pushed: Path | None = None
    media: Path | None = None
    repair: str | None = None
    read_secret: Callable[[Path], str | None] | None = None
    site: SiteAccess | None = None
    anew: bool = False
    update_limit: int | None = None
    network: str = ""
    capabilities: Mapping[str, Any] | None = None
    refuse_unknown: bool = False

    def check_limits(self, needed: int) -> None:
        """Whether `needed` bytes may be fetched here and now, to begin or to go on; OverUpdateLimit, OverBudget."""
        if self.update_limit is not None and needed > self.update_limit:
            raise OverUpdateLimit(needed, self.update_limit, self.network)
        if self.byte_limit is not None and needed > self.byte_limit:
            raise OverBudget(needed, self.byte_limit)


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The plan as predicted: bytes and requests of manifests/, packs/ and updates/."""

    kind: str
    bytes: int
    requests: int


@dataclass(frozen=True, slots=True)
class Wire:
    """What this run really moved: TCP payload both ways, and HTTP requests of any kind."""

    received: int
    sent: int
    requests: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that lies complete, verified and durable at `path`. `held`: it did so before.

    `unknown` are requirements of it that nobody here knows.
    """

    name: str
    version: int
    digest: str
    path: Path
    held: bool
    plan: PlanSummary
    wire: Wire
    withdrawn: frozenset[int]
    unknown: tuple[str, ...] = ()


class Listener(Protocol):
    """Who is told. `state` is called before the state's effects and persists it before it returns."""

    def state(self, state: str) -> None:
        """One of resolving, planning, fetching, assembling begins."""

    def progress(self, done: int, total: int) -> None:
        """Payload bytes that are decoded, of all."""

    def wire(self, received_delta: int, sent_delta: int) -> None:
        """TCP payload since the last call."""

    def site(self, received_delta: int, sent_delta: int, wasted_delta: int) -> None:
        """The same exchanged with neighbours, which is no uplink's; and how much of it was not what it should be."""

    def neighbour(self, target: str, holder: str, *, wrong: bool) -> None:
        """A neighbour gave something of an object, before anybody looks at it; or what it gave turned out `wrong`."""


class OverBudget(BudgetExceeded):
    """The plan needs `needed` bytes where the budget has `left`."""

    def __init__(self, needed: int, left: int) -> None:
        super().__init__(
            f"the update needs {needed} bytes and the budget has {left} left; it waits for the next period, "
            "or raise the budget."
        )
        self.needed = needed
        self.left = left


class OverUpdateLimit(TooLargeHere):
    """The update lacks `needed` bytes more, and the network's rule allows `limit` at once."""

    def __init__(self, needed: int, limit: int, network: str) -> None:
        super().__init__(
            f"the update needs {needed} bytes, and the network rule {network} allows {limit} an update; "
            "it waits for another network, or raise max_update_bytes."
        )
        self.needed = needed
        self.limit = limit


class Trust(Protocol):
    """What is needed of a trust store; TrustStore is one, TrustChild another."""

    def seed(self, root_json: bytes) -> None:
        """As TrustStore.seed."""

    def resolve(self, model: str, version: int | None, fetch: Fetch, *, carried: bool = False) -> Resolved:
        """As TrustStore.resolve."""
