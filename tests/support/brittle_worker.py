"""The daemon's worker with a decoder that has a memory fault: it dies by SIGSEGV of a frame that ends with MARKER.

`python -m tests.support.brittle_worker`. Only the decoder is changed; the rest is the product's.
"""

from __future__ import annotations

import ctypes
import faulthandler
import resource
from typing import Any

from modelsync_daemon.workers import worker
from modelsync_protocol import codecs

MARKER = b"\xde\xad\xfa\x17 by a neighbour"


def main() -> None:
    """Serve one job."""
    decode = codecs.decode

    def brittle(encoding: int, payload: bytes, *more: Any) -> bytes:
        if bytes(payload[-len(MARKER) :]) == MARKER:
            ctypes.string_at(0)
        return bytes(decode(encoding, payload, *more))

    codecs.decode = brittle  # type: ignore[assignment]
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker.main()


if __name__ == "__main__":
    main()
