"""Encodes a target: on a base (an update) or on nothing (packs), in whatever way is smallest.

Imports `tensors/`, `low_rank/` and the protocol. It never reads a store and never signs.
"""
