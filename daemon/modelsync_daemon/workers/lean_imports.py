"""Imports aiohttp without the system's certificates, of which it makes two contexts as soon as it is imported.

For processes that are modelsync's own: each of their connections with TLS brings a context, and parsing 140
certificates twice takes longer than starting Python does, and its memory stays.
"""

from __future__ import annotations

import ssl
from importlib import import_module


def import_aiohttp() -> None:
    """Import it, if it isn't yet. Whoever would use its own context then trusts nobody: it checks, and fails closed.

    While no other thread runs.
    """
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
    try:
        import_module("aiohttp")
    finally:
        del ssl.SSLContext.set_default_verify_paths  # again that of its base in C
