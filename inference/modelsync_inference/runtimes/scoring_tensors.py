"""How a scoring script's one string in and one string out are called as tensors."""

from __future__ import annotations

RAW_DATA, RESULT = "raw_data", "result"
"""Both BYTES of shape [1]: the request's body, and the JSON text of what `run` returned."""
