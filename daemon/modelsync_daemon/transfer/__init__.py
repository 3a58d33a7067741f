"""Bytes from the origin: requests, resuming, retries, the origin's secret, and what stands in for the origin.

May import trust (for the shape of an origin), disk and timing. What it brings is unverified; it never writes into a
version.
"""
