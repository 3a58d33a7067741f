"""`open_store`, `create_store` and `Store`: the library for people who write no coroutines. Each call is one of
AsyncStore's, run to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from modelsync_server.library.async_store import AsyncStore, Doctor, Price, Progress
from modelsync_server.publish.details import VersionDetails
from modelsync_server.publish.difference import Difference
from modelsync_server.publish.explain import Explanation
from modelsync_server.publish.listing import Model
from modelsync_server.publish.publisher import DEFAULT_BASES, Release
from modelsync_server.publish.verifier import Report
from modelsync_server.store import create_store as create_objects
from modelsync_server.store import open_store as open_objects
from modelsync_server.trust import RefreshReport, initialise
from modelsync_server.trust.rotation import KeyUse

if TYPE_CHECKING:
    from modelsync_server.retention.collecting import Collected
    from modelsync_server.retention.retaining import Plan

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NewStore:
    """A store that has just been made: `trust_file` is the root.json for devices, `keys_folder` has private keys."""

    store: Store
    trust_file: Path
    keys_folder: Path


def open_store(url: str | Path, *, keys: str | Path | None = None) -> Store:
    """Open a store by directory path, or `azblob://ACCOUNT/CONTAINER`, `s3://BUCKET`, `gs://BUCKET`, with `/PREFIX`.

    `keys` is the folder of the private keys; without it MODELSYNC_KEYS, else the user's configuration folder. Only
    what signs needs them. UsageError if a directory is no store; a container or bucket is looked at by the first call.
    """
    open_objects(str(url))
    return Store(AsyncStore(str(url), None if keys is None else str(keys)))


def create_store(
    url: str | Path, *, keys: str | Path | None = None, root_keys: int = 1, root_threshold: int = 1
) -> NewStore:
    """Make a place a store, and its keys: `root_keys` root keys, of which `root_threshold` must sign a new root.

    An interrupted call is finished by the next one with the same keys. UsageError if the place is a store already.
    """
    folder = None if keys is None else str(keys)
    place = create_objects(str(url))
    made = _run(initialise(place, folder, root_keys, root_threshold))
    return NewStore(Store(AsyncStore(place.url, folder)), made.trust_file, made.keys.folder)


class Store:
    """A store of models. `aio` has the same methods as coroutines.

    It may be used in a notebook or another place with a running event loop (the work is then done in a thread), and
    by several threads. It holds no connection and needs no closing. Every method raises only
    modelsync_protocol.errors: UsageError for wrong input, RefusedError for what trust, damage or policy forbid,
    UnreachableError if trying again may help, LocalError if this machine is the trouble.
    """

    def __init__(self, aio: AsyncStore) -> None:
        self.aio = aio

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        """What `open_store` takes to open this store again."""
        return self.aio.url

    def publish(
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
        """Publish a file, a directory, an open binary file or what a source keeps as a new version of `name`.

        A source is an address: `mlflow:models:/NAME@ALIAS`, `hf:ORG/REPO@REV`, `azureml:NAME:VERSION`, `dvc:PATH@REV`,
        `oci:REGISTRY/REPOSITORY:TAG`, `git+https://HOST/REPOSITORY//PATH@REV` (docs/integrations/sources.md). It is
        fetched with the credentials of its own tools, read first as an `untrusted` one, and what it meant is signed
        under `source`.

        The same bytes as the newest version are no new version (`fresh` is False then). `version`: default the last
        + 1. `probe`: a file of recorded inputs and outputs that devices check. `bases`: versions to make updates from
        beside the `last` newest. `metadata`: JSON values (NumPy's too), at most 64 KiB, signed with the version;
        `author`, `commit`, `run`, `licence`, `description` are text, `metrics` an object; for a version that is there
        it replaces what was said before. `file_name`: under which name an open file's bytes are published; its suffix
        tells the format. `untrusted`: nobody vouches for who made it, so a confined process reads it first, within
        bounds of time and memory. `adapter`: the LoRA adapter, a safetensors file or its folder, that was merged into
        the last version to make this one; its factors make the updates smaller. `provenance`: files with signatures
        (model-signing) or statements (in-toto), default those beside it; `require_provenance`: who may have signed
        them, as `key:FILE`, `cert:FILE` or `sigstore:IDENTITY,ISSUER`; with either they are verified first, and what
        was found is signed with the version. `requires`: what it requires of a device, as `KEY=VALUE` or `KEY>=VALUE`,
        beside what the model itself says, or instead of it; without `derive_requires` the model is not asked. `engine`:
        "local" encodes in `workers` processes of this machine (default: one for each core), "dask" on a cluster's, at
        `engine_address`, or one that is started here (docs/engine.md); the bytes are the same.
        `effort`: "fast", "default" or "max": how hard the encoder tries (docs/performance.md), which no device notices.
        A path is copied first and may change afterwards; an open file is read to its end.

        UsageError for what can't be published; RefusedError for a version with other bytes, or missing keys.
        """
        return _run(
            self.aio.publish(
                name,
                source,
                version=version,
                probe=probe,
                bases=bases,
                last=last,
                metadata=metadata,
                file_name=file_name,
                untrusted=untrusted,
                adapter=adapter,
                provenance=provenance,
                require_provenance=require_provenance,
                requires=requires,
                derive_requires=derive_requires,
                engine=engine,
                engine_address=engine_address,
                workers=workers,
                effort=effort,
                progress=progress,
            )
        )

    def models(self) -> tuple[Model, ...]:
        """All models with their live versions: dates, sizes, update costs, metadata."""
        return _run(self.aio.models())

    list = models

    def names(self) -> tuple[str, ...]:
        """Names of all models; reads signed metadata only."""
        return _run(self.aio.names())

    def show(self, name: str, version: int | None = None, *, digests: bool = True) -> VersionDetails:
        """Everything about one version (default: the newest): files, signatures, costs, metadata.

        With `digests` every file's SHA-256 is given, for which the version is read and decoded.
        """
        return _run(self.aio.show(name, version, digests=digests))

    def sbom(self, name: str, version: int | None = None) -> dict[str, Any]:
        """A version's bill of materials, CycloneDX 1.6 as JSON. Needs the extra `provenance` (UsageError)."""
        return _run(self.aio.sbom(name, version))

    def diff(self, name: str, old: int, new: int) -> Difference:
        """What changed between two versions, file by file and tensor by tensor, and what each costs a device."""
        return _run(self.aio.diff(name, old, new))

    def explain(self, name: str, old: int, new: int) -> Explanation:
        """Where the bytes of the update between two versions went, per tensor and encoding; UsageError without one."""
        return _run(self.aio.explain(name, old, new))

    def price(self, name: str, to: int, *, base: int | None = None) -> Price:
        """What a device that holds version `base` (None: nothing) pays to reach version `to`."""
        return _run(self.aio.price(name, to, base=base))

    def verify(self, sample: str | None = None, *, progress: Progress = lambda step, done, total: None) -> Report:
        """Check every signed version and every update, byte for byte; damage is reported, not raised.

        `sample`: only so many versions (`50`), or such a share of them (`5%`), chosen by chance anew each time.
        """
        return _run(self.aio.verify(sample, progress=progress))

    def withdraw(self, name: str, version: int) -> tuple[int, ...]:
        """Take a version back: devices fetch or activate it no more. Returns all withdrawn versions of the model."""
        return _run(self.aio.withdraw(name, version))

    def refresh(self, *, progress: Progress = lambda step, done, total: None) -> RefreshReport:
        """Sign what expires soonest again: call it daily. The report says until when devices believe the store."""
        return _run(self.aio.refresh(progress=progress))

    def prune(self, plan: Plan, *, progress: Progress = lambda step, done, total: None) -> None:
        """Carry out what `modelsync_server.retention.retaining.plan` proposed; RefusedError if that is out of date."""
        return _run(self.aio.prune(plan, progress=progress))

    def gc(
        self,
        *,
        older_than: timedelta = timedelta(days=1),
        dry_run: bool = False,
        progress: Progress = lambda step, done, total: None,
    ) -> Collected:
        """Delete objects that nothing has referred to for at least so long; with `dry_run` only count them."""
        return _run(self.aio.gc(older_than=older_than, dry_run=dry_run, progress=progress))

    def upgrade(self) -> tuple[str, ...]:
        """Give every model a chain of its own, which daemons before 0.2 can't read; returns the models moved."""
        return _run(self.aio.upgrade())

    def doctor(self, *, now: datetime | None = None) -> Doctor:
        """Look for what fails or soon will: trouble is a finding, never raised. `now`: not the clock's time."""
        return _run(self.aio.doctor(now=now))

    def keys(self) -> tuple[KeyUse, ...]:
        """Every key, what it signs, and whether it can sign here."""
        return _run(self.aio.keys())

    def add_key(self, role: str, *, uri: str | None = None, public: str | Path | None = None) -> tuple[str, ...]:
        """Let one more key sign for `role`: a new file, or the signer at `uri` with the PEM `public`; its key id."""
        return _run(self.aio.add_key(role, uri=uri, public=public))

    def rotate_keys(self, role: str) -> tuple[str, ...]:
        """Replace a role's keys by new ones; returns their key ids. May be repeated after an interruption."""
        return _run(self.aio.rotate_keys(role))

    def revoke_key(self, keyid: str) -> tuple[str, ...]:
        """Let a key (its id or the beginning of it) sign for nothing any more; returns the roles that it leaves."""
        return _run(self.aio.revoke_key(keyid))


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end; in a thread of its own where an event loop runs already (a notebook's cell)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "modelsync") as pool:
        return pool.submit(asyncio.run, work).result()
