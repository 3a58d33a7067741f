"""Memory comes back after swaps. In a process of its own, whose memory is nobody else's business."""

from __future__ import annotations

import json
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess
from tests.support.tiny_models import heavy
from tests.support.waiting import wait_until

MIB = 1 << 20


@pytest.mark.long
def test_ten_swaps_of_a_large_model_leave_memory_where_it_was(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    versions = [data.install(n, {"model.onnx": heavy(n)}) for n in (1, 2)]
    with InferProcess(tmp_path) as server:

        def status() -> Any:
            with urllib.request.urlopen(f"{server.url}/status") as response:
                return json.load(response)

        def serves(generation: int) -> bool:
            return bool(status()["current"]) and status()["current"]["generation"] == generation

        def resident() -> int:
            pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
            return int(pages) * 4096

        def serves_within(generation: int, limit: int) -> bool:
            return serves(generation) and resident() < limit

        limit = 1 << 62
        for generation in range(1, 12):
            data.point("current", versions[generation % 2], generation)
            wait_until(partial(serves_within, generation, limit), f"swap {generation} within {limit // MIB} MiB")
            limit = min(limit, resident() + 32 * MIB)
