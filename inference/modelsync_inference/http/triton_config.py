"""A model's configuration as Triton's model configuration extension shows it: what clients and profilers read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelsync_inference.http.dynamic_batcher import BatchRules
from modelsync_inference.runtimes.port import TensorSpec


def triton_config(
    model: str, platform: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], rules: BatchRules | None
) -> dict[str, Any]:
    """The document; with `rules` the first dimension is that of the batch, and `dims` are without it."""
    first = 0 if rules is None else 1
    document: dict[str, Any] = {
        "name": model,
        "platform": platform,
        "backend": platform.partition("_")[0],
        "max_batch_size": 0 if rules is None else rules.max_batch_size,
        "input": [_tensor(spec, first) for spec in inputs],
        "output": [_tensor(spec, first) for spec in outputs],
    }
    if rules is not None:
        document["dynamic_batching"] = {"max_queue_delay_microseconds": round(rules.max_queue_delay * 1e6)}
    return document


def _tensor(spec: TensorSpec, first: int) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list((spec.shape or ())[first:])}
