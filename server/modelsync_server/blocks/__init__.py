"""Encodes block-quantised tensors (encoding 9): finds and pairs them, counts, cuts frames, writes them. No I/O here.

May import encode, whose fitting and tables carry scales and all else; never the store.
"""
