"""An artifact whose manifest would be too large is cut coarsely; one that fits gets the chunks that it always got."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol import caps
from modelsync_protocol.errors import UsageError
from modelsync_server.publish import artifact


def test_what_fits_is_cut_as_ever_and_what_does_not_is_cut_coarsely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(np.random.default_rng(1).bytes(4_000_000))
    with artifact.snapshot(path) as usual:
        length = len(usual.manifest.encoded)
    monkeypatch.setattr(caps, "MAX_MANIFEST_BYTES", length)
    with artifact.snapshot(path) as same:
        assert same.manifest == usual.manifest
    monkeypatch.setattr(caps, "MAX_MANIFEST_BYTES", length - 1)
    with artifact.snapshot(path) as coarse:
        assert coarse.manifest.size == usual.manifest.size
        assert coarse.manifest.chunk_count * 5 < usual.manifest.chunk_count
        assert len(coarse.manifest.encoded) < length - 1
    monkeypatch.setattr(caps, "MAX_CHUNKS", usual.manifest.chunk_count - 1)
    with artifact.snapshot(path) as counted:
        assert counted.manifest.digest == coarse.manifest.digest
    monkeypatch.setattr(caps, "MAX_MANIFEST_BYTES", 500)
    with pytest.raises(UsageError, match="publish it in parts"), artifact.snapshot(path):
        pass
