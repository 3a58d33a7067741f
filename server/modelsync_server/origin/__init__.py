"""Serves a store's objects over HTTP, read only.

May import store. It never writes and never signs.
"""
