"""Bringing one version into memory, ready to serve: find, load, warm up, probe. It decides nothing."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from pathlib import Path

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.model import batch_rules
from modelsync_inference.model.acceptance import check_latency, check_memory
from modelsync_inference.model.artifact import open_artifact
from modelsync_inference.model.lease import Loaded
from modelsync_inference.model.memory import give_back, resident_bytes
from modelsync_inference.model.pointer import VersionRef
from modelsync_inference.model.probe import read_probe, run_probe, stated_by
from modelsync_inference.runtimes.port import (
    SCRIPT_PLATFORM,
    Guided,
    LoadedModel,
    Processes,
    Runtime,
    Settling,
)
from modelsync_inference.runtimes.synthetic_inputs import made_up, size_of
from modelsync_protocol.errors import ModelsyncError

_LOG = logging.getLogger(__name__)
_MAX_WARM_UP_VALUES = 1 << 22


def load_version(folder: Path, ref: VersionRef, runtime: Runtime, *, batches: bool = False) -> Loaded:
    """Load version `ref` below `folder` (models/NAME), warm it up and probe it; ModelRefusedError says why not.

    `batches`: find out whether requests may be run together.
    """
    started = time.monotonic()
    model: LoadedModel | None = None
    try:
        artifact = open_artifact(folder, ref)
        probe = None if artifact.probe is None else read_probe(artifact.probe)
        before = _held(runtime) if probe is not None and probe.limits.memory_bytes is not None else 0
        if isinstance(runtime, Guided):
            model = runtime.load_as(artifact.model, artifact.folder, stated_by(probe))
        else:
            model = runtime.load(artifact.model)
        loaded_at = time.monotonic()
        if probe is None:
            _warm_up(model)
        else:
            # Twice: the first run pays for allocations that the requests should not pay for.
            run_probe(model, probe)
            run_probe(model, probe)
            if probe.limits.memory_bytes is not None:
                check_memory(_held(runtime) - before, probe.limits.memory_bytes)
        unbatched = batch_rules.obstacle(model, probe) if batches else "it is not asked for."
        if isinstance(model, Settling):
            model.settle()
        if probe is not None and probe.limits.latency_ms is not None:  # at the priority of requests
            check_latency(model, [case.inputs for case in probe.cases], probe.limits.latency_ms)
    except Exception as error:
        if model is not None:
            model.close()
        if isinstance(error, ModelRefusedError):
            raise
        if not isinstance(error, ModelsyncError):
            _LOG.exception("loading version %s failed in an unforeseen way", ref.version)
        raise ModelRefusedError(f"it can't be loaded: {type(error).__name__}: {error}") from error
    load_ms, probe_ms = _milliseconds(started, loaded_at), _milliseconds(loaded_at, time.monotonic())
    return Loaded(ref, model, load_ms, probe_ms, unbatched)


def probe_again(folder: Path, loaded: Loaded) -> None:
    """Run a loaded version's probe once more, if it has one; ModelRefusedError says how it fails now."""
    artifact = open_artifact(folder, loaded.ref)
    if artifact.probe is not None:
        run_probe(loaded.model, read_probe(artifact.probe))


def _held(runtime: Runtime) -> int:
    """Bytes in use now; what the allocator only keeps for later would hide what a model takes."""
    give_back()
    return resident_bytes(runtime.pids() if isinstance(runtime, Processes) else ())


def _warm_up(model: LoadedModel) -> None:
    # Made-up inputs prove nothing about a model, so a model that dislikes them is not refused for it. What a script
    # wants to read can't be made up.
    if (
        model.platform == SCRIPT_PLATFORM
        or sum(math.prod(size_of(spec)) for spec in model.inputs) > _MAX_WARM_UP_VALUES
    ):
        return
    with contextlib.suppress(ModelsyncError):
        model.run({spec.name: made_up(spec) for spec in model.inputs}, [spec.name for spec in model.outputs])


def _milliseconds(start: float, end: float) -> int:
    return round((end - start) * 1000)
