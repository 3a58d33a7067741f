"""What an artifact requires of a device, read from the model itself: opsets, versions, packages.

It knows file formats and may import nothing of the server; it never executes what it reads, and what can't be read
requires nothing.
"""

from __future__ import annotations

from modelsync_server.requirements.artifact import requirements_of

__all__ = ["requirements_of"]
