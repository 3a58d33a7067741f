"""Publishes what appears somewhere: in a folder, in an upload container, or behind a registry's name that moves.

May import publish, sources, store and trust. It never sets a desired version.
"""
