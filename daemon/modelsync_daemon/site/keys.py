"""The site's key as it is in force here: loaded from its files, and again when these change. No network."""

from __future__ import annotations

import logging
import ssl
import time

from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol.errors import UsageError

_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Keys:
    """`local` names the files; `children`: as of SiteAccess.server_context. `load` first."""

    def __init__(self, local: SiteAccess, *, children: bool) -> None:
        self._local, self._children = local, children
        self._seen: object = None
        self._looked = 0.0
        self.fingerprint = ""
        """SHA-256 of the CA certificate that neighbours are asked for now; empty without TLS."""

    def load(self) -> ssl.SSLContext | None:
        """For connections of neighbours from now on; None without TLS. UsageError, and then what was in force is."""
        self._seen = self._state()
        context = self._local.server_context(children=self._children)
        self._local.client_context()
        self.fingerprint = self._local.fingerprint()
        return context

    def changed(self) -> bool:
        """Whether the files are others than when they were last loaded, or tried; looks at most once a second."""
        now = time.monotonic()
        if now < self._looked + _LOOK_SECONDS:
            return False
        self._looked = now
        return self._state() != self._seen

    def reload(self) -> ssl.SSLContext | None:
        """As `load` after `changed`; None if the files can't be used (half written, say), which is said."""
        try:
            return self.load()
        except UsageError as error:
            _log.warning("%s What was loaded before stays in force.", error)
            return None

    def _state(self) -> object:
        found: list[tuple[int, int, int] | None] = []
        for path in self._local.files:
            try:
                info = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((info.st_ino, info.st_mtime_ns, info.st_size))
        return found
