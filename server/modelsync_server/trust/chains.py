"""How a model's own chain of timestamp, snapshot and targets begins."""

from __future__ import annotations

from datetime import UTC, datetime

from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from modelsync_protocol import trust
from modelsync_server.trust.metadata import Roots, State


def begin(roots: Roots, model: str) -> State:
    """A chain without anything in it, whose first files get the number 1; nothing is written."""
    expires = datetime.now(UTC)  # signing sets it
    timestamp = Metadata(Timestamp(version=1, expires=expires, snapshot_meta=MetaFile(1)))
    snapshot = Metadata(Snapshot(version=1, expires=expires, meta={}))
    targets = Metadata(Targets(version=1, expires=expires))
    for metadata in (timestamp, snapshot, targets):
        metadata.signed.version = 0
        metadata.signed.unrecognized_fields[trust.MODEL] = model
    return State(roots.first, roots.newest, roots.newest_bytes, timestamp, None, snapshot, targets, {}, {}, model)
