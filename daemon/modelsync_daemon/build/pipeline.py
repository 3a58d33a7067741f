"""Brings one signed version onto the disk: resolve → plan → fetch → verify → assemble. It activates nothing.

Runs in the worker (or in `modelsyncd pull`), where the heavy imports are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelsync_daemon.build import sources, supported, zlib_trust
from modelsync_daemon.build.carried import carried
from modelsync_daemon.build.closed import refusal_of
from modelsync_daemon.build.hearsay import Judge, worth_its_manifest
from modelsync_daemon.build.plain_views import (
    ViewedLinks,
    ViewedTarget,
    ViewReader,
    copies_between_trees,
    unpacked_base,
)
from modelsync_daemon.build.plan_executor import Destination, Executor, Linked, Links, Readable
from modelsync_daemon.build.request import Listener, PlanSummary, Prepared, PrepareRequest, Trust, Wire
from modelsync_daemon.build.resolution import resolve
from modelsync_daemon.build.seeds import StreamReader, load_seed
from modelsync_daemon.build.target_tree import Assembly
from modelsync_daemon.build.update_choice import choose_update
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir, Installed
from modelsync_daemon.disk.garbage import REPAIR
from modelsync_daemon.disk.journal import Build, Recipe
from modelsync_daemon.transfer.download import ObjectChanged, ObjectReader, ObjectSource
from modelsync_daemon.transfer.errors import Distrusted, Misled, NotClosed
from modelsync_daemon.transfer.origin_client import Origin, Traffic
from modelsync_daemon.trust.resolved import ObjectMissing, Resolved
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol import caps, codecs, index, names, plan, update
from modelsync_protocol import manifest as manifests
from modelsync_protocol.digests import Digests
from modelsync_protocol.errors import FormatError, RefusedError, UnreachableError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plan import Kind, Plan, UpdateChoice

_PAUSE_BYTES = 8 * caps.MIB
"""While more than this of a base is unpacked, the connection is closed."""

_log = logging.getLogger(__name__)


async def prepare(
    request: PrepareRequest,
    database: Database,
    listener: Listener,
    open_trust: Callable[[Path], Trust] = TrustStore,
) -> Prepared:
    """Bring the requested version onto the disk, going on from where an earlier attempt was stopped.

    `open_trust` opens the trust store in a folder. What is durable when an error comes is kept for the next attempt.
    Raises UsageError, RefusedError (trust, damage, quarantine), Unsupported, OverBudget, UnreachableError, LocalError.
    """
    names.check_model_name(request.name)
    data = DataDir(request.data)
    data.create()
    source = carried(request) or sources.origin(request, listener, data)
    async with source as origin, sources.shared(origin, request, listener) as common:
        listener.state("resolving")
        objects = sources.with_parcel(request, common, data)
        try:
            resolved = await resolve(request, open_trust(data.trust), objects)
        except (RefusedError, UnreachableError) as error:
            if objects.hearsay:
                raise Misled(f"what a neighbour has of the store does not do: {error}") from error
            raise
        if request.repair not in (None, resolved.digest):
            raise RefusedError(
                f"the publisher has another {request.name} version {resolved.version} than what is damaged here; "
                "it can't be mended."
            )
        if resolved.digest in request.quarantined:
            raise RefusedError(
                f"{request.name} version {resolved.version} was refused before and is quarantined; "
                "publish another version or release it."
            )
        unknown = supported.check(request, resolved)
        listener.state("planning")
        job = _Job(request, data, database, listener, objects, resolved)
        summary = await job.run()
    traffic = origin.traffic if isinstance(origin, Origin) else Traffic(0, 0, 0)
    return Prepared(
        request.name,
        resolved.version,
        resolved.digest,
        data.version_dir(request.name, resolved.version, resolved.digest),
        summary.kind == Kind.HELD,
        summary,
        Wire(traffic.received, traffic.sent, traffic.requests),
        resolved.withdrawn,
        unknown,
    )


class _Job:
    """One preparation, after the version is known."""

    def __init__(
        self,
        request: PrepareRequest,
        data: DataDir,
        database: Database,
        listener: Listener,
        origin: ObjectSource,
        resolved: Resolved,
    ) -> None:
        self._request = request
        self._data = data
        self._listener = listener
        self._origin = origin
        self._resolved = resolved
        self._digest = resolved.digest
        # A repair must not take the place of an update that is half built.
        build = request.name if request.repair is None else f"{request.name}{REPAIR}"
        self._build = Build(data.root / "incoming" / build, build, database)
        self._installed = self._ordered(data.all_installed())
        self._seeds: dict[str, StreamReader] = {}
        self._viewed: ViewedTarget | None = None
        self._open: list[ViewReader] = []

    async def run(self) -> PlanSummary:
        """Make the version's folder, by the cheapest way that works."""
        own = any(item.name == self._request.name and item.version == self._resolved.version for item in self._same())
        if own and self._request.repair is None:
            self._build.drop()  # an error may have come between the move into place and this
            return PlanSummary(Kind.HELD, 0, 0)
        try:
            started = None if self._request.anew else self._build.resume(self._digest)
            if started is not None:
                try:
                    return await self._go_on(*started)
                except (FormatError, ObjectChanged, ObjectMissing) as error:
                    _log.warning("starting anew: %s", error)
            return await self._begin()
        finally:
            for seed in self._seeds.values():
                seed.close()
            for reader in self._open:
                reader.close()

    async def _begin(self) -> PlanSummary:
        for item in self._same():
            seed = self._seed(item.digest)
            if seed is not None:
                return await self._install_held(seed)
        held = [item for item in self._installed if self._seed(item.digest)]
        known = self._resolved if self._request.pushed is None else replace(self._resolved, offers=b"")
        formats = codecs.NEWEST_VERSION
        while formats and (choice := await choose_update(known, self._request.name, held, self._origin, formats)):
            if choice.version >= update.VIEWS and not zlib_trust.packs_alike(self._data.zlib_verdict):
                formats = update.VIEWS - 1  # found out before a byte is fetched in vain
                continue
            self._request.check_limits(choice.bytes)
            try:
                return await self._begin_update(choice)
            except Distrusted:
                continue
            except (FormatError, ObjectMissing, ObjectChanged) as error:
                if self._origin.mistrust(names.update_object(self._digest, choice.base, choice.version)):
                    continue
                self._doubt(str(error))
                _log.warning("the update object does not serve, so another or chunks are fetched instead: %s", error)
            formats = choice.version - 1
        return await self._begin_chunks()

    async def _install_held(self, seed: StreamReader) -> PlanSummary:
        """The same bytes are installed under another number or name: link them."""
        manifest = seed.manifest
        steps = (plan.CopyStep(0, manifest.size, 0, 0),) if manifest.size else ()
        copies = Plan(Kind.HELD, 0, 0, (manifest.digest,), steps, ())
        self._build.begin(Recipe(self._digest, "held", "", 0, "", (manifest.digest,)), b"", 0)
        return await self._carry_out(copies, manifest, 0, None)

    async def _begin_update(self, choice: UpdateChoice) -> PlanSummary:
        base, size = choice.base, choice.bytes
        seed = self._seed(base)
        assert seed is not None
        body = self._origin.open(names.update_object(self._digest, base, choice.version), 0, size, whole=True)
        try:
            self._listener.state("fetching")
            head = await body.read(min(update.PREAMBLE_BYTES, size))
            preamble = update.decode_preamble(head)
            if preamble is None or preamble.payload_offset > size:
                raise FormatError("the update is cut short.")
            if preamble.payload_offset > len(head):
                head += await body.read(preamble.payload_offset - len(head))
            else:
                body.unread(head[preamble.payload_offset :])
            found = update.decode_header(preamble, head[preamble.offset : preamble.payload_offset], seed.manifest)
            if preamble.payload_offset + found.payload_bytes != size:
                raise FormatError("the update is not as long as its header says.")
            recipe = Recipe(self._digest, "update", base, size, body.etag, (base,))
            self._build.begin(recipe, head[: preamble.payload_offset], size)
            del head  # megabytes, where it holds products of low rank: room for decoding
            steps = plan.plan_update(self._digest, base, size, preamble.payload_offset, found, preamble.version)
            return await self._carry_out(steps, found.target, 0, body, found.views)
        finally:
            body.close()

    def _doubt(self, why: str) -> None:
        """What a neighbour offers may leave the cheapest way out: before another is taken, the origin is asked."""
        if self._origin.hearsay:
            raise Misled(f"what a neighbour offers does not do: {why}")

    async def _begin_chunks(self) -> PlanSummary:
        if self._installed:
            self._doubt("it offers no update.")
        manifest, found, data = await self._manifest()
        seeds = [seed for item in self._installed if (seed := self._seed(item.digest)) is not None]
        steps = plan.plan_chunks(manifest, found, len(data), [seed.manifest for seed in seeds])
        self._request.check_limits(steps.bytes)
        self._build.begin(Recipe(self._digest, "chunks", "", len(data), "", steps.seeds), data, len(data) + steps.bytes)
        del found, data  # they are as large as the plan made of them
        return await self._carry_out(steps, manifest, 0, None)

    async def _go_on(self, recipe: Recipe, source: bytes, done: int) -> PlanSummary:
        """Make the same plan from the same inputs, and go on behind what the journal holds."""
        seeds = [self._seed(digest) for digest in recipe.seeds]
        views = None
        if not all(seeds):
            raise FormatError("a version that the update builds on is gone.")
        if recipe.kind == "update":
            preamble = update.decode_preamble(source)
            assert preamble is not None and seeds[0] is not None
            found = update.decode_header(preamble, source[preamble.offset :], seeds[0].manifest)
            steps = plan.plan_update(
                self._digest, recipe.base, recipe.size, preamble.payload_offset, found, preamble.version
            )
            manifest, views = found.target, found.views
            if views is not None and not zlib_trust.packs_alike(self._data.zlib_verdict):
                raise FormatError("this machine's zlib packs otherwise than the publisher's.")
        elif recipe.kind == "chunks":
            manifest, place = index.decode_object(source, self._digest)
            steps = plan.plan_chunks(manifest, place, recipe.size, [seed.manifest for seed in seeds if seed])
        else:
            raise FormatError("only links were made so far.")
        self._request.check_limits(steps.payload_bytes(done))
        body = None
        if recipe.etag and done < len(steps.steps):
            request = steps.requests[0]
            body = self._origin.open(request.path, 0, request.length, whole=request.whole, etag=recipe.etag)
            self._listener.state("fetching")
        return await self._carry_out(steps, manifest, done, body, views)

    async def _carry_out(
        self, steps: Plan, target: Manifest, done: int, body: ObjectReader | None, views: Views | None = None
    ) -> PlanSummary:
        """Build, verify and move into place. `body` is the plan's first request, if it is open already.

        With `views` the steps run between these.
        """
        if steps.requests and body is None:
            self._listener.state("fetching")
        self._viewed = None
        assembly = Assembly(target, self._build.tree)
        assembly.prepare(durable=self._build.journaled)
        seeds = [self._seeds[digest] for digest in steps.seeds]
        linked = Linked(assembly)
        linked.link(steps.steps if views is None else copies_between_trees(views, steps), seeds)
        if done == 0:
            plain = 0 if views is None else views.base.plain_bytes + views.target.plain_bytes
            self._data.check_space(linked.unlinked_bytes + plain)
        destination: Destination = assembly
        sources: Sequence[Readable] = seeds
        links: Links = linked
        if views is not None:
            if body is not None and views.base.plain_bytes > _PAUSE_BYTES:
                body.close()  # nobody should wait for us that long with an open connection
                request = steps.requests[0]
                body = self._origin.open(request.path, 0, request.length, whole=request.whole, etag=body.etag)
            base = await unpacked_base(views.base, seeds[0], self._build.folder)
            self._open.append(base)
            self._viewed = ViewedTarget(views.target, assembly, self._build.folder)
            self._open.append(self._viewed.reader)
            self._viewed.prepare()
            destination, sources, links = self._viewed, [base], ViewedLinks(views, linked)
        total = steps.payload_bytes()
        executor = Executor(
            steps,
            destination,
            sources,
            self._origin,
            journal=self._build.advance if self._build.journaled else None,
            progress=lambda fetched: self._listener.progress(fetched, total),
            check=Judge(partial(self._signed_digests, steps, target)).check if views is None else None,
        )
        await executor.run(done, body, links)
        self._listener.state("assembling")
        if self._viewed is not None:
            await self._viewed.pack()
        manifest = await self._verify(assembly, target, steps)
        refusal = await asyncio.to_thread(refusal_of, manifest, assembly.root)
        if refusal is not None:
            self._build.drop()
            text = f"{self._request.name} version {self._resolved.version} is refused: {refusal}"
            raise NotClosed(text, self._resolved.version, self._digest)
        folder = self._data.version_dir(self._request.name, self._resolved.version, self._digest)
        place = self._data.manifest_path(self._request.name, self._resolved.version, self._digest)
        if self._request.repair is None:
            assembly.finish(manifest, folder, place)
        else:
            assembly.mend(manifest, folder, place)
        self._build.drop()
        return PlanSummary(steps.kind, steps.bytes, steps.http_requests)

    async def _signed_digests(self, steps: Plan, target: Manifest) -> Manifest | None:
        """The target's manifest with its digests, if that is known or costs little beside what is fetched."""
        if steps.kind != Kind.UPDATE:
            return target
        return (await self._manifest())[0] if worth_its_manifest(steps.bytes, self._resolved.length) else None

    async def _verify(self, assembly: Assembly, target: Manifest, steps: Plan) -> Manifest:
        """Hash what is on the disk; fetch damaged chunks once more from packs. Raises RefusedError if that fails."""
        made = manifests.complete(target.skeleton, iter(digests := Digests.of(assembly.reader.digests())))
        if made.digest == self._digest:
            return made
        if True in {self._origin.mistrust(request.path) for request in steps.requests}:
            raise Distrusted("what neighbours gave of the update builds another version.")
        manifest, found, data = await self._manifest()
        if manifest.skeleton != target.skeleton:
            self._build.drop()
            raise RefusedError("the update object builds another version than it should; run `modelsync verify` there.")
        damaged = frozenset(
            offset for (offset, _, digest), real in zip(manifest.chunks(), digests, strict=True) if digest != real
        )
        _log.warning("%d chunk(s) came out damaged and are fetched again.", len(damaged))
        repair = plan.plan_chunks(manifest, found, len(data), [], damaged)
        self._listener.state("fetching")
        await Executor(repair, assembly, [], self._origin, journal=None, progress=lambda fetched: None).run()
        self._listener.state("assembling")
        if Digests.of(assembly.reader.digests()) != Digests.of(digest for _, _, digest in manifest.chunks()):
            self._build.drop()
            raise RefusedError(
                f"{self._request.name} version {self._resolved.version} came damaged twice; "
                "run `modelsync verify` on the store."
            )
        if self._viewed is not None and self._viewed.packed_otherwise(damaged):
            _log.warning(
                "this machine's zlib packs otherwise than the publisher's; other updates are taken from now on."
            )
            zlib_trust.distrust(self._data.zlib_verdict)
        return manifest

    async def _manifest(self) -> tuple[Manifest, index.Index, bytes]:
        path = names.manifest_object(self._digest)
        data = await self._origin.get(path, caps.MAX_MANIFEST_OBJECT_BYTES)
        try:
            manifest, found = index.decode_object(data, self._digest)
        except FormatError:
            if not self._origin.mistrust(path):
                raise
            data = await self._origin.get(path, caps.MAX_MANIFEST_OBJECT_BYTES)
            manifest, found = index.decode_object(data, self._digest)
        if len(manifest.encoded) != self._resolved.length:
            raise RefusedError("the manifest's length is not the signed one.")
        return manifest, found, data

    def _ordered(self, installed: list[Installed]) -> list[Installed]:
        """This model's versions first, newest first."""
        return sorted(installed, key=lambda item: (item.name != self._request.name, item.name, -item.version))

    def _same(self) -> list[Installed]:
        return [item for item in self._installed if item.digest == self._digest]

    def _seed(self, digest: str) -> StreamReader | None:
        if digest == plan.NOTHING.digest:
            self._seeds.setdefault(digest, StreamReader(plan.NOTHING, self._data.root))
        if digest not in self._seeds:
            for item in self._installed:
                if item.digest == digest and (seed := load_seed(item)) is not None:
                    self._seeds[digest] = seed
                    break
        return self._seeds.get(digest)
