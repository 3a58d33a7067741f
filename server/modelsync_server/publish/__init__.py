"""Publishes an artifact: copy, cut, encode, pack, upload, sign; and prices, checks and advises.

May import encode, store and trust. It never serves and never talks to a hub.
"""
