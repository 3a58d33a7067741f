"""Publishes what appears somewhere: in a folder, or in an upload container.

May import publish, store and trust. It never sets a desired version.
"""
