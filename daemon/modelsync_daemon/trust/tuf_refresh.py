"""One refresh with python-tuf: fetching through the bundle, durable keeping, errors in our words.

Which time counts, and when to try again, is trust_store.py's. The parts of python-tuf that are private to it and used
here (`_trusted_set`, `_load_targets`, `_persist_*`, `_update_root_symlink`) are why its version is pinned (ADR 3).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, Targets
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from modelsync_daemon.disk.durable import durable_write, durable_writes
from modelsync_daemon.trust.origin_fetcher import CONFIG, OriginFetcher, documents_at_hand
from modelsync_daemon.trust.resolved import Fetch, ObjectMissing, Resolved
from modelsync_protocol import bundle as bundles
from modelsync_protocol import caps, names, trust
from modelsync_protocol.errors import FormatError, LocalError, ModelsyncError, RefusedError, UnreachableError
from modelsync_protocol.requirements.terms import of_version


class Expired(RefusedError):
    """Signed metadata that is no longer believed at the reference time."""


def check_root(root_json: bytes) -> Metadata[Root]:
    """Parse a root and check that it signs itself; RefusedError."""
    try:
        root: Metadata[Root] = Metadata[Root].from_bytes(root_json)
        if not isinstance(root.signed, Root):
            raise ValueError("not a root")
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except (DeserializationError, exceptions.RepositoryError, ValueError) as error:
        raise RefusedError("this is no root.json that signs itself: use the one from `modelsync init`.") from error
    return root


def is_of_line(root_json: bytes, seed: bytes, directory: Path) -> bool:
    """Whether `root_json` is the seed, or a root that has followed it here, or the next one after those."""
    if root_json == seed:
        return True
    root = check_root(root_json)
    history = directory / "root_history"
    kept = history / f"{root.signed.version}.root.json"
    if kept.exists():
        return kept.read_bytes() == root_json
    before = history / f"{root.signed.version - 1}.root.json"
    predecessor = check_root(before.read_bytes() if before.exists() else seed)
    if predecessor.signed.version != root.signed.version - 1:
        return False
    try:
        predecessor.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except exceptions.RepositoryError:
        return False
    return True


def fetch_bundle(model: str, fetch: Fetch) -> bundles.Bundle | None:
    """The model's bundle, or None if the origin has none or it can't be read (it is only a cache)."""
    try:
        return bundles.decode(fetch(names.bundle_object(model), caps.MAX_BUNDLE_BYTES))
    except (ObjectMissing, FormatError):
        return None


def fetch_own_timestamp(model: str, fetch: Fetch) -> bytes | None:
    """The timestamp of the model's own chain, or None if the origin answers no such thing; nothing is checked."""
    try:
        data = fetch(trust.timestamp_object(model), CONFIG.timestamp_max_length)
        return data if json.loads(data)["signed"][trust.MODEL] == model else None
    except (ObjectMissing, RefusedError, ValueError, KeyError, TypeError, RecursionError):
        return None


def has_own_chain(directory: Path, model: str) -> bool:
    """Whether the model's own chain was ever believed here. From then on the shared one says nothing of this model."""
    return (_folder(directory, model) / "timestamp.json").exists()


def _folder(directory: Path, chain: str | None) -> Path:
    return directory if chain is None else directory / "chains" / chain


class Kept:
    """What of a resolution is kept, by its path, before it is written: all at once costs the disk fewer waits."""

    def __init__(self) -> None:
        self.files: dict[Path, bytes] = {}

    def read(self, path: Path) -> bytes:
        """What is kept under that path. Raises OSError."""
        return self.files[path] if path in self.files else path.read_bytes()

    def write(self) -> None:
        """Make it durable. Raises LocalError."""
        durable_writes(self.files)
        self.files.clear()


class Session:
    """One refresh over `directory`, from the root `seed` on; `refresh` once, then ask.

    `own`: by the model's own chain, instead of the one that the store's first models share. `believe_bundle`: the
    bundle's number may answer the question for the next root. `missing_roots` is shared between sessions of one
    resolution, so that the origin is asked once.
    """

    def __init__(
        self,
        directory: Path,
        seed: bytes,
        model: str,
        fetch: Fetch,
        bundle: bundles.Bundle | None,
        believe_bundle: bool,
        missing_roots: set[str],
        own: bool,
        kept: Kept,
    ) -> None:
        self._model = model
        self._bundle = bundle
        chain = model if own else None
        documents = documents_at_hand(model, chain, bundle, _folder(directory, chain)) if bundle else {}
        self._fetcher = OriginFetcher(chain, fetch, documents, bundle if believe_bundle else None, missing_roots)
        with _our_words():
            self._updater = _DurableUpdater(
                str(directory),
                "metadata/",
                fetcher=self._fetcher,
                config=CONFIG,
                bootstrap=seed,
                chain=chain,
                kept=kept,
            )
        self._trusted = self._updater._trusted_set

    @property
    def asked_root(self) -> bool:
        """Whether the origin was really asked for a newer root."""
        return self._fetcher.asked_root

    def refresh(self, reference: int) -> None:
        """Update root, timestamp, snapshot and targets; expiry is judged at `reference` (Unix seconds)."""
        self._trusted.reference_time = datetime.fromtimestamp(reference, UTC)
        with _our_words():
            self._updater.refresh()

    def timestamp_keys(self) -> tuple[str, ...]:
        """Key ids of the timestamp role in the current root, sorted."""
        return tuple(sorted(self._trusted.root.roles["timestamp"].keyids))

    def root_issued(self) -> int:
        """When the current root was signed (Unix seconds); 0 if it doesn't say."""
        issued = self._trusted.root.unrecognized_fields.get(trust.ISSUED)
        return 0 if issued is None else seconds(issued)

    def timestamp_issued(self) -> int:
        """When the timestamp was signed (Unix seconds); 0 if it doesn't say. Never after its own expiry."""
        timestamp = self._trusted.timestamp
        issued = timestamp.unrecognized_fields.get(trust.ISSUED)
        return 0 if issued is None else min(seconds(issued), int(timestamp.expires.timestamp()))

    def resolved(self, version: int | None) -> Resolved:
        """What the refreshed metadata says of one version (None: the newest); RefusedError."""
        model = self._model
        role = self._role(trust.role_name(model))
        if role is None:
            raise RefusedError(f"the store signs no model {model!r}: check the name, or publish it first.")
        found = _listed(role, model)
        withdrawn = _withdrawn(role)
        if not found and version is None:
            raise RefusedError(f"the store has no version of {model!r} that may be used: publish one.")
        wanted = max(found) if version is None else version
        newest = max(found, default=0)
        if wanted in withdrawn:
            raise RefusedError(f"version {wanted} of {model!r} was withdrawn: choose another version.")
        if wanted not in found and (archive := self._role(trust.archive_name(model))) is not None:
            found = {**_listed(archive, model), **found}
            role = archive if wanted not in _listed(role, model) else role
        if wanted not in found:
            raise RefusedError(f"the store signs no version {wanted} of {model!r}: publish it or choose another.")
        digest, length = found[wanted]
        return Resolved(
            version=wanted,
            digest=digest,
            length=length,
            newest=newest,
            versions={number: found[number][0] for number in sorted(found) if number not in withdrawn},
            withdrawn=withdrawn,
            offers=self._bundle.offers if self._bundle else b"",
            issued=self.timestamp_issued(),
            requires=_requires(role, wanted),
        )

    def _role(self, role: str) -> Targets | None:
        """The verified role, or None if the targets role doesn't delegate this model to it or it has no file yet."""
        delegations = self._trusted.targets.delegations
        delegated = (delegations.roles or {}).get(role) if delegations else None
        if delegated is None or not delegated.is_delegated_path(names.target_path(self._model, 1)):
            return None
        if f"{role}.json" not in self._trusted.snapshot.meta:
            return None
        with _our_words():
            return self._updater._load_targets(role, "targets")


class _DurableUpdater(Updater):
    """python-tuf's updater, whose files survive a power cut and are not rewritten without need.

    All chains share the roots that are kept; what else is kept of a model's own chain has a folder of its own.
    """

    def __init__(
        self,
        directory: str,
        base: str,
        *,
        fetcher: FetcherInterface,
        config: UpdaterConfig,
        bootstrap: bytes,
        chain: str | None,
        kept: Kept,
    ) -> None:
        self._chain, self._files = chain, kept
        self._shared, self._folder = Path(directory), _folder(Path(directory), chain)
        super().__init__(directory, base, fetcher=fetcher, config=config, bootstrap=bootstrap)

    def _persist_file(self, filename: str, data: bytes) -> None:
        durable_write(Path(filename), data)

    def _load_local_metadata(self, rolename: str) -> bytes:
        return self._files.read(self._kept(self._folder, rolename))

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        """Keep what was verified, unless it is another role's or chain's: TUF checks the key, which they may share."""
        signed = self._trusted_set[rolename]
        if isinstance(signed, Targets) and signed.unrecognized_fields.get(trust.ROLE) != rolename:
            raise RefusedError(f"the origin offers another role's metadata as {rolename}'s: check the origin.")
        named = signed.unrecognized_fields.get(trust.MODEL)
        if rolename in ("timestamp", "snapshot", "targets") and named != self._chain:
            raise RefusedError(f"the origin offers another model's {rolename} metadata: check the origin.")
        if isinstance(signed, Snapshot) and self._chain is not None:
            self._check_transition(signed, self._chain)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files.files[self._kept(self._folder, rolename)] = data

    def _check_transition(self, snapshot: Snapshot, model: str) -> None:
        """A model's first own snapshot must not lead behind what the shared one said of the model's roles."""
        if self._kept(self._folder, "snapshot").exists():
            return  # python-tuf has compared with that
        try:
            shared = json.loads(self._kept(self._shared, "snapshot").read_bytes())["signed"]["meta"]
            known = {name: int(entry["version"]) for name, entry in shared.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # nothing was kept, or it is damaged: then python-tuf has nothing to compare with either
        for role in (trust.role_name(model), trust.archive_name(model)):
            name = f"{role}.json"
            if name in known and (name not in snapshot.meta or snapshot.meta[name].version < known[name]):
                raise RefusedError(
                    f"the origin offers older metadata of {model!r} than this device has seen: "
                    "check which store the origin serves, and its caches."
                )

    @staticmethod
    def _kept(folder: Path, rolename: str) -> Path:
        return folder / f"{quote(rolename, '')}.json"

    def _persist_root(self, version: int, data: bytes) -> None:
        kept = Path(self._dir) / "root_history" / f"{version}.root.json"
        if not kept.exists() or kept.read_bytes() != data:
            super()._persist_root(version, data)

    def _update_root_symlink(self) -> None:
        """Nothing: the link serves starts without a bootstrap root, and ours always have one."""


def _listed(role: Targets, model: str) -> dict[int, tuple[str, int]]:
    """version → (manifest digest, manifest length) of the role's targets; FormatError on anything odd."""
    found: dict[int, tuple[str, int]] = {}
    for path, target in role.targets.items():
        number = path.removeprefix(f"{model}/")
        if (
            not number.isdecimal()
            or len(number) > len(str(caps.MAX_VERSION))
            or path != names.target_path(model, int(number))
        ):
            raise FormatError(f"the metadata of {model!r} lists {path!r:.80}: publish again with a right modelsync.")
        digest = names.check_digest(target.hashes.get("sha256"))
        if not 0 < target.length <= caps.MAX_MANIFEST_BYTES or not 0 < int(number) <= caps.MAX_VERSION:
            raise FormatError(f"the metadata of {model!r} lists a version beyond the limits: publish it anew.")
        found[int(number)] = (digest, target.length)
    return found


def _withdrawn(role: Targets) -> frozenset[int]:
    versions = role.unrecognized_fields.get(trust.WITHDRAWN, [])
    if not isinstance(versions, list) or not all(type(version) is int for version in versions):
        raise FormatError("the metadata's list of withdrawn versions is not a list of integers: publish it anew.")
    return frozenset(versions)


def _requires(role: Targets, version: int) -> dict[str, str]:
    """What the version requires. What can't be read is a newer publisher's, and as unknown as a key of its."""
    try:
        return of_version(role.unrecognized_fields.get(trust.REQUIRES), version)
    except FormatError:
        return {trust.REQUIRES: "*"}


@contextmanager
def _our_words() -> Iterator[None]:
    """Turn python-tuf's errors into ours, each one sentence that says what to do."""
    try:
        yield
    except ModelsyncError:
        raise
    except exceptions.ExpiredMetadataError as error:
        raise Expired(
            f"the store's metadata has expired ({error}): run `modelsync refresh` on the store, "
            f"or set this device's clock if {datetime.now(UTC):%Y-%m-%d} is wrong."
        ) from error
    except exceptions.BadVersionNumberError as error:
        raise RefusedError(
            f"the origin offers older metadata than this device has seen ({error}): "
            "check which store the origin serves, and its caches."
        ) from error
    except (exceptions.UnsignedMetadataError, DeserializationError, ValueError) as error:
        raise RefusedError(
            f"the origin's metadata is not signed by keys that this device trusts ({error}): "
            "check that origin and root.json belong to the same store."
        ) from error
    except (exceptions.LengthOrHashMismatchError, exceptions.DownloadLengthMismatchError) as error:
        raise RefusedError(f"the origin's metadata is larger than allowed ({error}): check the origin.") from error
    except exceptions.DownloadHTTPError as error:
        raise UnreachableError(f"the origin has no {error}: check its URL and that the store was published.") from error
    except exceptions.DownloadError as error:
        raise UnreachableError(f"the origin's metadata can't be fetched ({error}): try again.") from error
    except exceptions.RepositoryError as error:
        raise RefusedError(f"the origin's metadata does not fit together ({error}): check the origin.") from error
    except OSError as error:
        raise LocalError(f"the trust data can't be used ({error.strerror}): check the disk.") from error


def seconds(text: object) -> int:
    """A signed time as Unix seconds; FormatError (a RefusedError)."""
    return int(trust.parse_time(text).timestamp())
