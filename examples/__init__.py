"""Models that this repository trains itself, and the demo. Never installed: run from the root."""
