"""A store's objects by granian, for `bench.origin`: what a Python handler costs behind a server written in Rust.

It is no origin: paths are taken as they come, absent objects are an error. So it does less than a real one would, and
what it costs is the least that a handler in Python costs there. `STORE` in the environment is the folder.
"""

from __future__ import annotations

import os
from typing import Any

_STORE = os.environ.get("STORE", ".")


async def app(scope: Any, protocol: Any) -> None:
    """RSGI: tag and cache header, and the file by the server's own means."""
    name = scope.path.rpartition("/")[2]
    headers = [("etag", f'"{name[:12]}"'), ("cache-control", "public, max-age=31536000, immutable")]
    protocol.response_file(200, headers, _STORE + scope.path)
