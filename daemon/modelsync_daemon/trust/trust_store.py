"""Which versions of a model may be believed: the device's trust store. python-tuf itself is in tuf_refresh.py.

Everything fetched here is hostile until a signature says otherwise; what is kept is written durably. Importing
this module costs nothing: python-tuf is loaded when a store is seeded or a model is resolved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelsync_daemon.disk.durable import TEMPORARY_PREFIX, durable_unlink, durable_write
from modelsync_daemon.trust.resolved import Fetch, Resolved
from modelsync_protocol import names, trust
from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from modelsync_daemon.trust.tuf_refresh import Kept, Session
    from modelsync_protocol.bundle import Bundle

BUILD_TIME = 1_793_491_200
"""2026-11-01T00:00:00Z, raised with releases: no device's clock is believed to be before this (Unix seconds)."""

ROOT_QUESTION_SECONDS = 24 * 3600
"""How long a bundle's word on the newest root is enough; then the origin is really asked for the next one."""


@dataclass(frozen=True, slots=True)
class Clock:
    """What is kept of time. `floor`: no earlier than this, from signed metadata; `keys`: the timestamp keys that it
    was learned under; `root_asked`: this machine's time when the origin was last asked for a new root (Unix s)."""

    floor: int = BUILD_TIME
    keys: tuple[str, ...] = ()
    root_asked: int | None = None

    def reference(self, wall: float) -> int:
        """The time that expiry is judged by: a clock behind the floor is wrong, one ahead of it may be right."""
        return max(self.floor, int(wall), BUILD_TIME)

    def must_ask_root(self, wall: float) -> bool:
        """Whether a bundle's word is too old; a clock that went back counts as too old."""
        return self.root_asked is None or not 0 <= wall - self.root_asked < ROOT_QUESTION_SECONDS


class TrustStore:
    """The trust data of one device in `directory` (`trust/` of the data directory), for one process at a time."""

    def __init__(self, directory: Path, wall_clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._wall_clock = wall_clock

    @property
    def seeded(self) -> bool:
        """Whether there is a root of trust."""
        return self._seed_file.exists()

    @property
    def time_floor(self) -> int:
        """No earlier than this can it be, by what was signed (Unix seconds). LocalError if it can't be read."""
        return self._read_clock().floor

    def seed(self, root_json: bytes) -> None:
        """Start from this root; later calls only check that `root_json` is of the kept line. May be repeated.

        RefusedError if it isn't a root that signs itself, or is of another line than the one kept here.
        """
        from modelsync_daemon.trust import tuf_refresh

        if not self.seeded:
            tuf_refresh.check_root(root_json)
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable_write(self._seed_file, root_json)
        elif not tuf_refresh.is_of_line(root_json, self._seed_file.read_bytes(), self._directory):
            raise RefusedError(
                "this root.json is not of the root that the data directory trusts: "
                "give the right root.json, or an empty data directory."
            )

    def resolve(self, model: str, version: int | None, fetch: Fetch, *, carried: bool = False) -> Resolved:
        """Bring the metadata up to date and say what `version` of `model` is; None means the newest.

        RefusedError: unknown or withdrawn, badly signed, older than seen before, expired, or too large.
        UnreachableError: the origin can't be reached or lacks metadata. LocalError: this machine. Nothing that did
        not verify is kept; the call may be killed at any point and repeated. `carried`: `fetch` has only
        what was pushed or carried here, so its word on the newest root must do for now (the question stays due).
        """
        from modelsync_daemon.trust import tuf_refresh

        names.check_model_name(model)
        if not self.seeded:
            raise RefusedError("this data directory trusts nobody yet: give it a root.json with --trust.")
        self._remove_leftovers()
        bundle = tuf_refresh.fetch_bundle(model, fetch)
        missing_roots: set[str] = set()
        if bundle is not None and not bundle.own and tuf_refresh.has_own_chain(self._directory, model):
            bundle = None  # a stale cache's, from before the model got a chain of its own
        if bundle is None:
            return self._from_files(model, version, fetch, missing_roots, carried)
        try:
            return self._resolve(model, version, fetch, bundle, bundle.own, missing_roots, carried)
        except RefusedError as refusal:
            # A bundle is only a cache: a stale or damaged one must not stop what the origin's own metadata allows.
            try:
                return self._from_files(model, version, fetch, missing_roots, carried)
            except UnreachableError:
                raise refusal from None

    def _from_files(
        self, model: str, version: int | None, fetch: Fetch, missing_roots: set[str], carried: bool
    ) -> Resolved:
        """Without a bundle: by the model's own chain if it has one, else by the shared one."""
        from modelsync_daemon.trust import tuf_refresh

        own, found = tuf_refresh.has_own_chain(self._directory, model), None
        if not own:
            found = tuf_refresh.fetch_own_timestamp(model, fetch)

        def once(path: str, limit: int) -> bytes:
            return found if found is not None and path == trust.timestamp_object(model) else fetch(path, limit)

        return self._resolve(model, version, once, None, own or found is not None, missing_roots, carried)

    def _resolve(
        self,
        model: str,
        version: int | None,
        fetch: Fetch,
        bundle: Bundle | None,
        own: bool,
        missing_roots: set[str],
        carried: bool,
    ) -> Resolved:
        from modelsync_daemon.trust import tuf_refresh

        clock, wall = self._read_clock(), self._wall_clock()

        kept = tuf_refresh.Kept()

        def session() -> tuf_refresh.Session:
            seed, ask = self._seed_file.read_bytes(), clock.must_ask_root(wall) and not carried
            return tuf_refresh.Session(self._directory, seed, model, fetch, bundle, not ask, missing_roots, own, kept)

        try:
            return self._refreshed(session, clock, wall, version, kept, carried)
        finally:  # what was verified by then, whatever else was not
            kept.write()

    def _refreshed(
        self,
        session: Callable[[], Session],
        clock: Clock,
        wall: float,
        version: int | None,
        kept: Kept,
        carried: bool,
    ) -> Resolved:
        from modelsync_daemon.trust import tuf_refresh

        current = session()
        try:
            current.refresh(clock.reference(wall))
        except tuf_refresh.Expired:
            if not clock.keys or current.timestamp_keys() == clock.keys:
                raise
            # The floor was learned under keys that the root has since replaced: whoever had them may have lied.
            clock = replace(clock, floor=max(BUILD_TIME, current.root_issued()))
            current = session()
            current.refresh(clock.reference(wall))
        learned = max(BUILD_TIME, current.root_issued(), current.timestamp_issued())
        floor = max(clock.floor, learned) if current.timestamp_keys() == clock.keys else learned
        asked = int(wall) if current.asked_root and not carried else clock.root_asked
        self._write_clock(Clock(floor, current.timestamp_keys(), asked), clock, kept)
        return current.resolved(version)

    def _remove_leftovers(self) -> None:
        """Delete what a killed write left; one process at a time is here, so nobody is writing them now."""
        for folder in (self._directory, self._directory / "root_history", *(self._directory / "chains").glob("*")):
            for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
                durable_unlink(path)

    @property
    def _seed_file(self) -> Path:
        return self._directory / "seed.root.json"

    @property
    def _clock_file(self) -> Path:
        return self._directory / "clock.json"

    def _read_clock(self) -> Clock:
        try:
            document = json.loads(self._clock_file.read_bytes())
            return Clock(int(document["floor"]), tuple(map(str, document["keys"])), document["root_asked"])
        except FileNotFoundError:
            return Clock()
        except OSError as error:
            raise LocalError(f"{self._clock_file} can't be read ({error.strerror}): check the disk.") from error
        except (ValueError, KeyError, TypeError):
            return Clock()  # damaged: the build date is a floor too, and the metadata's versions still hold

    def _write_clock(self, clock: Clock, old: Clock, kept: Kept) -> None:
        if clock != old:
            document = {"format": 1, "floor": clock.floor, "keys": clock.keys, "root_asked": clock.root_asked}
            kept.files[self._clock_file] = json.dumps(document).encode()
