"""What the resident daemon asks of its worker and what comes back, as plain JSON. No heavy imports, no I/O here.

The worker's own types live in pipeline.py, whose imports the resident process must not carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from modelsync_daemon.transfer.errors import (
    AccessRefused,
    BudgetExceeded,
    Misled,
    NotClosed,
    OriginBusy,
    TooLargeHere,
    Unsupported,
)
from modelsync_protocol import errors, names
from modelsync_protocol.errors import LocalError, ModelsyncError

CONFINED_BY = "confined_by"
"""Key of the document in state.db: a JSON list of the layers that the last worker was confined by."""


@dataclass(frozen=True, slots=True)
class Job:
    """Prepare one version of a model. Paths are strings; see build.request.PrepareRequest for each field's meaning.

    `require_confinement`: refuse to work where a layer of confinement is missing.
    """

    name: str
    version: int | None
    origin: str
    data: str
    origin_ca: str | None = None
    trust_root: str | None = None
    stall_seconds: float = 60.0
    rate_limit: int | None = None
    byte_limit: int | None = None
    quarantined: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    proxy: str | None = None
    pushed: str | None = None
    repair: str | None = None
    media: str | None = None
    require_confinement: bool = False
    update_limit: int | None = None
    network: str = ""
    site: Mapping[str, Any] | None = None
    """A SiteAccess as JSON: neighbours to share the origin with."""
    anew: bool = False
    capabilities: Mapping[str, Any] | None = None
    refuse_unknown: bool = False

    def document(self) -> dict[str, Any]:
        """The job as JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Job:
        """The reverse of `document`."""
        return cls(**{**document, **{key: tuple(document[key]) for key in ("quarantined", "secrets")}})


_PLANS = ("held", "pushed", "update", "chunks", "pack")
_MAX_KEY = 80
"""Characters of a requirement's key (FORMAT.md §12.5)."""

MAX_TEXT = 2000
"""Characters of a sentence that are passed on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A version that now lies complete and durable on the disk, and what it cost (bytes as in DESIGN §9)."""

    name: str
    version: int
    digest: str
    held: bool
    kind: str
    bytes: int
    requests: int
    received: int
    sent: int
    wire_requests: int
    withdrawn: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Outcome:
        """Read an outcome from the worker's JSON. ValueError, KeyError or TypeError if it is none.

        The worker has read what came from outside: names and digests become paths here, so they are looked at again.
        """
        found = cls(**{**document, **{key: tuple(document.get(key, ())) for key in ("withdrawn", "unknown")}})
        counts = (found.bytes, found.requests, found.received, found.sent, found.wire_requests)
        if not all(type(count) is int and count >= 0 for count in counts) or type(found.held) is not bool:
            raise ValueError("a count is none")
        if any(type(key) is not str or len(key) > _MAX_KEY for key in found.unknown):
            raise ValueError("a requirement's key is none")
        if found.kind not in _PLANS:
            raise ValueError("no such plan")
        try:
            names.check_model_name(found.name)
            names.check_digest(found.digest)
            for version in (found.version, *found.withdrawn):
                names.check_version(version)
        except ModelsyncError as error:
            raise ValueError(str(error)) from error
        return found


class WorkerDied(LocalError):
    """The worker ended without an answer: killed, out of memory, or broken."""


EventCallback = Callable[[Mapping[str, Any]], None]
"""Called with each of the worker's events: state, progress, wire or site."""


class Preparer(Protocol):
    """Who brings a version onto the disk."""

    async def prepare(self, job: Job, on_event: EventCallback) -> Outcome:
        """Do `job`; cancelling stops it at once and loses nothing that is durable. Raises ModelsyncError."""
        ...


_KINDS: dict[str, type[ModelsyncError]] = {
    "usage": errors.UsageError,
    "open": NotClosed,
    "unsupported": Unsupported,
    "refused": errors.RefusedError,
    "access": AccessRefused,
    "busy": OriginBusy,
    "misled": Misled,
    "unreachable": errors.UnreachableError,
    "local": errors.LocalError,
    "budget": BudgetExceeded,
    "network": TooLargeHere,
    "defect": WorkerDied,
}


def kind_of(error: BaseException) -> str:
    """The word by which an error travels from worker to resident."""
    for kind, root in _KINDS.items():
        if isinstance(error, root):
            return kind
    return "defect"


_NOTHING: Mapping[str, Any] = {}


def error_of(kind: str, text: str, about: Mapping[str, Any] = _NOTHING) -> ModelsyncError:
    """The reverse of `kind_of`.

    `about` holds `after` of OriginBusy, `version` and `digest` of NotClosed and Unsupported.
    """
    text = str(text)[:MAX_TEXT]
    if kind == "busy":
        return OriginBusy(text, float(about.get("after", 0.0)))
    if kind in ("open", "unsupported"):
        closed = NotClosed if kind == "open" else Unsupported
        try:
            return closed(text, names.check_version(about["version"]), names.check_digest(about["digest"]))
        except ModelsyncError as error:
            raise ValueError(str(error)) from error
    return _KINDS.get(kind, WorkerDied)(text)
