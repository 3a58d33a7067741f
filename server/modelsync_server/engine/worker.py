"""A worker process of the local engine: calls come as lines of JSON on standard input, answers go out as lines.

It ends when its caller does, in the middle of a call too: whoever started it holds the other end of the pipe.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any

from modelsync_server.engine.answers import answer


def main() -> None:
    """Answer until standard input ends."""
    # What a library prints must not be taken for an answer.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(calls,), daemon=True).start()
    while True:
        call = calls.get()
        out.write(json.dumps(answer(call["function"], call["arguments"], call["versions"])) + "\n")
        out.flush()


def _read(calls: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        calls.put(json.loads(line))
    os._exit(0)  # nobody is left to hear an answer


if __name__ == "__main__":
    main()
