"""A store's operations as coroutines; `Store` runs the same ones. What they do is done in other rooms."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from modelsync_protocol import findings, names
from modelsync_protocol.errors import UsageError
from modelsync_protocol.findings import Finding
from modelsync_protocol.requirements import terms
from modelsync_server.engine import open_engine
from modelsync_server.library.source import as_path
from modelsync_server.publish.details import VersionDetails
from modelsync_server.publish.difference import Difference
from modelsync_server.publish.explain import Explanation
from modelsync_server.publish.listing import Model
from modelsync_server.publish.publisher import DEFAULT_BASES, Release
from modelsync_server.publish.verifier import Report
from modelsync_server.scratch.places import scratch_folder
from modelsync_server.store import Store as ObjectStore
from modelsync_server.store import open_store as open_objects
from modelsync_server.trust import RefreshReport, Repository, catalogue_for
from modelsync_server.trust.rotation import KeyUse

if TYPE_CHECKING:
    from modelsync_server.retention.collecting import Collected
    from modelsync_server.retention.retaining import Plan

Progress = Callable[[str, int, int], None]
"""`progress(step, done, total)`: a few words for people, and bytes; it may be called from any thread."""


@dataclass(frozen=True, slots=True)
class Price:
    """What reaching a version costs a device: `bytes` in `requests` HTTP requests; `kind` as in FORMAT.md §10."""

    kind: str
    bytes: int
    requests: int


@dataclass(frozen=True, slots=True)
class Doctor:
    """What `doctor` found. `exit_code` is 0, or what a command would end with because of the first problem."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 without a problem."""
        return findings.exit_code(self.findings)


class AsyncStore:
    """A store, opened by `open_store(url).aio`. Holds no connection; its methods may run at the same time.

    `url` and `keys` as `open_store` takes them. Every method raises only modelsync_protocol.errors: UsageError for
    wrong input, RefusedError for what trust, damage or policy forbid, UnreachableError if trying again may help,
    LocalError if this machine is the trouble. What only reads needs no keys.
    """

    def __init__(self, url: str, keys: str | None) -> None:
        self.url = url
        self.keys_folder = keys

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def publish(
        self,
        name: str,
        source: str | Path | BinaryIO,
        *,
        version: int | None = None,
        probe: str | Path | None = None,
        bases: Sequence[int] = (),
        last: int = DEFAULT_BASES,
        metadata: Mapping[str, Any] | None = None,
        file_name: str | None = None,
        untrusted: bool = False,
        adapter: str | Path | None = None,
        provenance: Sequence[str | Path] = (),
        require_provenance: Sequence[str] = (),
        requires: Sequence[str] = (),
        derive_requires: bool = True,
        engine: str | None = None,
        engine_address: str | None = None,
        workers: int | None = None,
        effort: str = "default",
        progress: Progress = lambda step, done, total: None,
    ) -> Release:
        """See `Store.publish`."""
        from modelsync_server.provenance.provenance import Wanted
        from modelsync_server.publish.publisher import effort_named, publish

        level = effort_named(effort)
        running = open_engine(engine, engine_address, workers, scratch_folder())
        async with contextlib.AsyncExitStack() as stack:
            if running is not None:
                stack.push_async_callback(running.close)
            path, origin = await stack.enter_async_context(
                self._artifact(name, source, file_name, metadata, untrusted, progress)
            )
            return await publish(
                self._objects(),
                self.keys_folder,
                name,
                path,
                version=version,
                probe=None if probe is None else Path(probe),
                bases=bases,
                last=last,
                metadata=metadata,
                untrusted=untrusted or origin is not None,
                adapter=None if adapter is None else Path(adapter),
                provenance=Wanted.of(provenance, require_provenance),
                requires=terms.from_words(requires) if requires else None,
                derive=derive_requires,
                source=origin,
                engine=running,
                effort=level,
                progress=progress,
            )

    async def models(self) -> tuple[Model, ...]:
        """See `Store.list`."""
        from modelsync_server.publish.listing import list_models

        return await list_models(self._objects())

    list = models

    async def names(self) -> tuple[str, ...]:
        """See `Store.names`."""
        from modelsync_server.trust import read_catalogue

        return tuple(sorted((await read_catalogue(self._objects())).models))

    async def show(self, name: str, version: int | None = None, *, digests: bool = True) -> VersionDetails:
        """See `Store.show`."""
        from modelsync_server.publish.details import describe

        return await describe(self._objects(), name, version, digests=digests)

    async def sbom(self, name: str, version: int | None = None) -> dict[str, Any]:
        """See `Store.sbom`."""
        from modelsync_server.provenance.sbom import Part, bill

        found = await self.show(name, version)
        parts = [Part(each.path, each.size, each.sha256) for each in found.entries if each.mode is not None]
        signed = found.version.published if found.version.published_signed else None
        return bill(
            name,
            found.version.version,
            found.version.digest,
            parts,
            published=signed,
            requires=found.requires,
            metadata=found.metadata,
        )

    async def diff(self, name: str, old: int, new: int) -> Difference:
        """See `Store.diff`."""
        from modelsync_server.publish.difference import difference

        return await difference(self._objects(), name, old, new)

    async def explain(self, name: str, old: int, new: int) -> Explanation:
        """See `Store.explain`."""
        from modelsync_server.publish.explain import explain

        return await explain(self._objects(), name, old, new)

    async def price(self, name: str, to: int, *, base: int | None = None) -> Price:
        """See `Store.price`."""
        from modelsync_server.publish.verifier import price_of

        plan = await price_of(self._objects(), name, base, to)
        return Price(plan.kind.value, plan.bytes, plan.http_requests)

    async def verify(self, sample: str | None = None, *, progress: Progress = lambda step, done, total: None) -> Report:
        """See `Store.verify`."""
        from modelsync_server.publish.verifier import verify

        return await verify(self._objects(), sample, progress=progress)

    async def withdraw(self, name: str, version: int) -> tuple[int, ...]:
        """See `Store.withdraw`."""
        repository = await self._repository()
        catalogue = await catalogue_for(repository.store, name)
        if version not in catalogue.model(name).withdrawn:
            catalogue.digest(name, version)  # says what may have been meant
        return tuple(sorted((await repository.withdraw(name, version)).model(name).withdrawn))

    async def refresh(self, *, progress: Progress = lambda step, done, total: None) -> RefreshReport:
        """See `Store.refresh`."""
        return await (await self._repository()).refresh(progress)

    async def prune(self, plan: Plan, *, progress: Progress = lambda step, done, total: None) -> None:
        """See `Store.prune`."""
        from modelsync_server.retention.retaining import prune

        await prune(self._objects(), self.keys_folder, plan, progress)

    async def gc(
        self, *, older_than: timedelta, dry_run: bool, progress: Progress = lambda step, done, total: None
    ) -> Collected:
        """See `Store.gc`."""
        from modelsync_server.retention.collecting import collect

        return await collect(self._objects(), grace=older_than, dry_run=dry_run, progress=progress)

    async def upgrade(self) -> tuple[str, ...]:
        """See `Store.upgrade`."""
        from modelsync_server.trust import give_own_chains

        return tuple(await give_own_chains(await self._repository()))

    async def doctor(self, *, now: datetime | None = None) -> Doctor:
        """See `Store.doctor`."""
        from modelsync_server.library.doctor import examine

        return Doctor(tuple(await examine(self.url, self.keys_folder, now)))

    async def keys(self) -> tuple[KeyUse, ...]:
        """See `Store.keys`."""
        from modelsync_server.trust.rotation import describe

        return tuple(describe(await self._repository()))

    async def add_key(self, role: str, *, uri: str | None = None, public: str | Path | None = None) -> tuple[str, ...]:
        """See `Store.add_key`."""
        from modelsync_server.trust import rotation
        from modelsync_server.trust.keys import external_entry

        entry = external_entry(uri, None if public is None else Path(public))
        return tuple(await rotation.add_key(await self._repository(), role, entry))

    async def rotate_keys(self, role: str) -> tuple[str, ...]:
        """See `Store.rotate_keys`."""
        from modelsync_server.trust import rotation

        return tuple(await rotation.rotate(await self._repository(), role))

    async def revoke_key(self, keyid: str) -> tuple[str, ...]:
        """See `Store.revoke_key`."""
        from modelsync_server.trust import rotation

        return tuple(await rotation.revoke(await self._repository(), keyid))

    @contextlib.asynccontextmanager
    async def _artifact(
        self,
        name: str,
        source: str | Path | BinaryIO,
        file_name: str | None,
        metadata: Mapping[str, Any] | None,
        untrusted: bool,
        progress: Progress,
    ) -> AsyncIterator[tuple[Path, Mapping[str, str] | None]]:
        """The path of what is to be published, and where it was fetched from."""
        from modelsync_server.publish.publisher import check_metadata
        from modelsync_server.sources import fetching

        def told(done: int, total: int) -> None:
            progress("fetching", done, total)

        if isinstance(source, str) and fetching.is_source(source):
            if file_name is not None:
                raise UsageError("a file name is for bytes from a stream: a source has names of its own.")
            names.check_model_name(name)
            check_metadata(metadata, {})
            await self._repository()  # keys that are missing are told before anything is fetched
            async with fetching.fetched(fetching.parse(source), told=told) as found:
                yield found.path, found.document
            return
        if isinstance(source, str):
            fetching.check_path(source)
        with as_path(source, file_name) as path:
            if untrusted:  # git must not run where a stranger may have put its settings
                yield path, None
                return
            async with fetching.smudged(path, told) as found_too:
                yield (path, None) if found_too is None else (found_too.path, found_too.document)

    def _objects(self) -> ObjectStore:
        """A back end of its own for each call: one that is bound to an event loop must not outlive it."""
        return open_objects(self.url)

    async def _repository(self) -> Repository:
        return await Repository.open(self._objects(), self.keys_folder)
