"""Encodes a target: on a base (an update) or on nothing (packs), in whatever way is smallest.

Imports the protocol only. It never reads a store and never signs.
"""
