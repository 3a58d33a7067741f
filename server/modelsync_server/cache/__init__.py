"""What a publisher keeps between runs so as not to do it again: streams of versions, by digest, in the user's cache.

May import store, and nothing above it. Nothing depends on it: every file may be deleted at any time, none is believed
without its digests, and a cache that can't be written is none.
"""
