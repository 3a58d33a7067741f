"""The counting, slowing and cutting TCP relay for tests; it lives with the demo, which must not import tests."""

from examples.demo.relay import Connection, Counts, Direction, Relay

__all__ = ["Connection", "Counts", "Direction", "Relay"]
