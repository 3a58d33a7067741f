"""Which engine a name stands for."""

from __future__ import annotations

from pathlib import Path

from modelsync_protocol import near_names
from modelsync_protocol.errors import UsageError
from modelsync_server.engine.cluster import ClusterEngine
from modelsync_server.engine.local import LocalEngine
from modelsync_server.engine.port import Engine

NAMES = ("local", "dask")
_MOST_WORKERS = 1024


def open_engine(
    name: str | None, address: str | None = None, workers: int | None = None, scratch: Path | None = None
) -> Engine | None:
    """The engine; None if none is asked for. Nothing is started yet. UsageError for what does not go together.

    `address` is a cluster's; `workers` how many processes are started here, default one for each core.
    `scratch`: the folder for their temporary files; those of a cluster choose for themselves.
    """
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise UsageError(f"--workers is 1 to {_MOST_WORKERS}, not {workers}.")
    if name is None and address is not None:
        raise UsageError("--engine-address needs --engine dask.")
    if name is None and workers is None:
        return None
    if name in (None, "local"):
        if address is not None:
            raise UsageError("--engine local has no address: it is this machine; a cluster is --engine dask.")
        return LocalEngine(workers, scratch)
    if name == "dask":
        if address is not None and workers is not None:
            raise UsageError(
                "--workers is for workers that are started here; the cluster at --engine-address has its own."
            )
        if address is not None:
            return ClusterEngine(address)
        from modelsync_server.engine.dask_engine import DaskEngine

        return DaskEngine(workers=workers)
    if name == "ray":
        raise UsageError(
            "--engine ray is not built: Ray does by 240 MB what Dask does by 7 (docs/adr/0054); take --engine dask, "
            "or local on one machine."
        )
    raise UsageError(f"--engine {name} is not known{near_names.hint(str(name), NAMES)}: give {' or '.join(NAMES)}.")
