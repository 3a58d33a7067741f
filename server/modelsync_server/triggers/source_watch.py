"""Publishes what a name in a registry means, whenever that changes: an alias of MLflow, a revision, a tag.

Only a change publishes. What the name meant last is remembered in a file, so that neither a restart nor a repeated
event brings back a version that was withdrawn meanwhile. It never sets a desired version.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from modelsync_protocol import release_record
from modelsync_protocol.errors import LocalError, ModelsyncError, UnreachableError
from modelsync_server.publish.publisher import Release, publish
from modelsync_server.publish.release_records import published_at
from modelsync_server.sources.fetching import fetched
from modelsync_server.sources.port import Resolved, Source
from modelsync_server.store import Store, durable
from modelsync_server.triggers.folder_watch import wait
from modelsync_server.trust import read_catalogue


def memory_file(store: str, model: str, uri: str) -> Path:
    """Where one watch remembers, unless it is told another place: in the user's folder of state."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    name = hashlib.sha256("\n".join((store, model, uri)).encode()).hexdigest()[:32]
    return Path(home) / "modelsync" / f"watch-{name}.json"


class SourceWatch:
    """Watches `source` for `model` in `store`, one publication at a time. `memory` is kept by this object alone."""

    def __init__(
        self,
        source: Source,
        store: Store,
        keys: str | None,
        model: str,
        tell: Callable[[Release, Resolved], None],
        complain: Callable[[str], None],
        memory: Path,
    ) -> None:
        self._source, self._store, self._keys, self._model = source, store, keys, model
        self._tell, self._say, self._memory = tell, complain, memory
        self._complained = ""
        self._refused: str | None = None

    async def run(self, stop: asyncio.Event, hint: asyncio.Event, every: float) -> None:
        """Look every `every` seconds, and at each `hint`, until `stop`. A look that is under way then is given up."""
        while not stop.is_set():
            hint.clear()
            look = asyncio.ensure_future(self._look_and_complain())
            ending = asyncio.ensure_future(stop.wait())
            await asyncio.wait([look, ending], return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            look.cancel()
            await asyncio.gather(look, return_exceptions=True)
            if look.done() and not look.cancelled() and (error := look.exception()) is not None:
                raise error
            await wait(hint, stop, every, patient=False)

    async def _look_and_complain(self) -> None:
        try:
            await self.look()
        except LocalError:
            raise  # a full disk or a memory that can't be written: going on would publish again and again
        except ModelsyncError as error:
            if str(error) != self._complained:
                self._complained = str(error)
                self._say(str(error))
        else:
            self._complained = ""

    async def look(self) -> None:
        """Publish what the name means now if that is not what it meant last. One cheap request if nothing changed.

        What was refused once (UsageError, RefusedError) is not fetched again until the name moves.
        """
        resolved = await self._source.resolve()
        before = self._remembered()
        if resolved.revision in (before, self._refused) or (before is None and await self._known(resolved)):
            if before is None and resolved.revision != self._refused:
                self._remember(resolved)
            return
        try:
            async with fetched(self._source, resolved) as found:
                made = await publish(
                    self._store, self._keys, self._model, found.path, untrusted=True, source=found.document
                )
        except (UnreachableError, LocalError):
            raise
        except ModelsyncError:
            self._refused = resolved.revision
            raise
        self._remember(resolved)
        if made.fresh:
            self._tell(made, resolved)

    async def _known(self, resolved: Resolved) -> bool:
        """Without a memory: whether the newest version is from there, or was withdrawn, which is not undone here."""
        model = (await read_catalogue(self._store)).models.get(self._model)
        if model is None:
            return False
        if model.last in model.withdrawn:
            self._say(
                f"version {model.last} of {self._model} was withdrawn: {self._source.uri} is published when it moves."
            )
            return True
        _, record = await published_at(self._store, model.versions[model.last], model.releases.get(model.last))
        signed = record.metadata.get(release_record.SOURCE) if record is not None else None
        return isinstance(signed, dict) and (signed.get("registry"), signed.get("revision")) == (
            resolved.registry,
            resolved.revision,
        )

    def _remembered(self) -> str | None:
        try:
            found = json.loads(self._memory.read_bytes())
            return str(found["revision"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LocalError(f"{self._memory} can't be read ({type(error).__name__}): restore or remove it.") from error

    def _remember(self, resolved: Resolved) -> None:
        document = {"uri": self._source.uri, "model": self._model, "revision": resolved.revision}
        durable.write(self._memory, json.dumps(document).encode())
