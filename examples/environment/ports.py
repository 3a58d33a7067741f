"""A port that nobody listens on."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A free port of 127.0.0.1; somebody could take it before its user does, which shows at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
