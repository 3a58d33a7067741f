"""Names and field names of our TUF metadata, shared by publisher and device. No I/O, no keys, no python-tuf here."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from modelsync_protocol.errors import FormatError

LISTED_VERSIONS = 10
"""A model's role lists so many of its newest versions; older ones are in its archive role."""

ISSUED = "issued"
"""Signed field of root and timestamp: when it was signed, UTC seconds (`2026-11-20T12:00:00Z`)."""

ROLE = "role"
"""Signed field of all targets metadata: the role's own name. Roles that share a key (a model's and its archive's,
all models') could else be passed off as one another where their version numbers agree."""

WITHDRAWN = "withdrawn"
"""Signed field of a model's role: sorted integers, the versions that must not be fetched or activated again."""

RELEASES = "releases"
"""Signed field of a model's archive role: decimal version → SHA-256 of its release record. Devices don't read it; the
archive, because they fetch that only for old versions."""

REQUIRES = "requires"
"""Signed field of a model's role and of its archive: what their versions require (FORMAT.md §12.5); absent if nothing.
Here and not in the manifest, so that it can be said anew, and is known before anything of a version is fetched."""

PRUNED = "pruned"
"""Signed field of a model's archive role: the highest version up to which versions may have been taken out of the store
by retention, an integer. Those are not withdrawn: a device that runs one goes on; nobody can fetch it any more."""

MODEL = "model"
"""Signed field of timestamp, snapshot and targets of a model's own chain: the model. All chains of a store share the
keys of these roles, so that one chain's file could else be passed off as another's."""

OWN_CHAINS = "own_chains"
"""Signed field of the shared timestamp: `true` once every model of the store has a chain of its own."""

SHARED_MODELS = 16
"""The shared chain, which daemons before 0.2 read, takes so many models; those that come later get their own."""

TIMESTAMP_OBJECT = "metadata/timestamp.json"
"""The shared chain's timestamp, and the only object under metadata/ that is ever replaced."""

_OWN_TIMESTAMP = re.compile(r"bundles/([a-z0-9][a-z0-9_-]{0,62})\.timestamp\.json")
_CHAIN_ROLES = frozenset({"timestamp", "snapshot", "targets"})

_TOP_LEVEL = frozenset({"root", "targets", "snapshot", "timestamp"})
_ARCHIVE = ".archive"
_ESCAPED = ".model"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def role_name(model: str) -> str:
    """The delegated role of a model: its name; the four names that TUF itself uses get `.model` behind them.

    A model name has no '.', so that neither this nor the archive role's name is ambiguous.
    """
    return model + _ESCAPED if model in _TOP_LEVEL else model


def archive_name(model: str) -> str:
    """The delegated role that lists a model's versions older than the newest LISTED_VERSIONS."""
    return model + _ARCHIVE


def model_of_role(role: str) -> str | None:
    """The model whose role this is, or None if it is an archive role or one of TUF's own."""
    if role in _TOP_LEVEL or role.endswith(_ARCHIVE):
        return None
    return role.removesuffix(_ESCAPED)


def metadata_object(role: str, version: int) -> str:
    """Store path of a role's metadata of that metadata version (`metadata/<N>.<role>.json`)."""
    return f"metadata/{version}.{role}.json"


def timestamp_object(chain: str | None) -> str:
    """Store path of the timestamp of a model's own chain, or of the shared one (None).

    It is replaced, so it lies below bundles/, which every cache in front of a store leaves alone.
    """
    return TIMESTAMP_OBJECT if chain is None else f"bundles/{chain}.timestamp.json"


def chain_of_timestamp(path: str) -> str | None:
    """The model whose own chain has its timestamp at this store path, or None."""
    match = _OWN_TIMESTAMP.fullmatch(path)
    return match[1] if match else None


def chain_role(role: str, chain: str | None) -> str:
    """How the files of a chain's role are named: snapshot and targets of model m's own chain `m.snapshot`, `m.targets`;
    a model's role and its archive are the same files in any chain."""
    return role if chain is None or role not in _CHAIN_ROLES else f"{chain}.{role}"


def format_time(moment: datetime) -> str:
    """`moment` as TUF writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime:
    """Read a time as TUF writes it; FormatError."""
    if isinstance(text, str) and _TIME.fullmatch(text):
        try:
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            pass
    raise FormatError(f"{text!r:.40} is not a UTC time of the form 2026-11-20T12:00:00Z.")
