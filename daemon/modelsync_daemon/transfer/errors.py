"""How fetching can fail in ways that the resident daemon answers differently. No I/O here."""

from __future__ import annotations

from modelsync_protocol.errors import FormatError, ModelsyncError, RefusedError, UnreachableError


class AccessRefused(UnreachableError):
    """The origin refuses the secret it is asked with, and no other came in time."""


class OriginBusy(UnreachableError):
    """The origin asks to be left alone for `after` seconds (Retry-After)."""

    def __init__(self, text: str, after: float = 0.0) -> None:
        super().__init__(text)
        self.after = after


class Misled(UnreachableError):
    """What neighbours said of a store is stale or false: it may work with what the origin says."""


class Distrusted(FormatError):
    """An object that began, or was made of, what a neighbour sent wrong: asked for again, it comes from others."""


class BudgetExceeded(ModelsyncError):
    """The plan needs more bytes than the budget has left; nothing was fetched."""

    exit_code = 3


class TooLargeHere(ModelsyncError):
    """What is still to be fetched is more than this network is to carry at once; nothing of it was fetched here."""

    exit_code = 3


class Unsupported(RefusedError):
    """A version that this device can't run: nothing of it was fetched, and what serves goes on."""

    def __init__(self, text: str, version: int, digest: str) -> None:
        super().__init__(text)
        self.version = version
        self.digest = digest


class NotClosed(RefusedError):
    """A version that leads out of itself: to fetch it again would change nothing, so it is to be quarantined."""

    def __init__(self, text: str, version: int, digest: str) -> None:
        super().__init__(text)
        self.version = version
        self.digest = digest
