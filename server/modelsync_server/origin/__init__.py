"""Serves a store's objects over HTTP, read only.

A directory's itself; a bucket's by proxy, or by URLs that it signs.

May import store. It never writes, and signs no metadata.
"""
