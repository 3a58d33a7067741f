"""Serves a store's objects over HTTP, read only: a directory's itself, a bucket's by proxy or by signed URLs.

May import store. It never writes and never signs.
"""
