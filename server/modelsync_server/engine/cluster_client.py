"""Dask's client for a cluster that others run: lists of calls come as lines of JSON, answers and errors go out so.

`python -m modelsync_server.engine.cluster_client ADDRESS`, started by cluster.py. It ends when its caller does.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from modelsync_server.engine import plain_pickle
from modelsync_server.engine.answers import error_of
from modelsync_server.engine.port import Call


def main() -> None:
    """Answer until standard input ends."""
    # What a library prints must not be taken for an answer.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(asked,), daemon=True).start()
    plain_pickle.only()

    def say(document: dict[str, Any]) -> None:
        out.write(json.dumps(document) + "\n")
        out.flush()

    asyncio.run(_serve(sys.argv[1], asked, say))


async def _serve(
    address: str, asked: queue.SimpleQueue[list[dict[str, Any]]], say: Callable[[dict[str, Any]], None]
) -> None:
    from modelsync_server.engine.dask_engine import DaskEngine

    engine = DaskEngine(address)
    while True:
        calls = [Call(**document) for document in await asyncio.to_thread(asked.get)]
        try:
            await engine.run(calls, lambda number, answer: say({"number": number, "answer": answer}))
            ended: dict[str, Any] = {"answer": None}
        except Exception as error:
            ended = error_of(error)
        say({"ended": ended, "retried": engine.retried})


def _read(asked: queue.SimpleQueue[list[dict[str, Any]]]) -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(0)  # nobody is left to hear an answer


if __name__ == "__main__":
    main()
