"""Brings one signed version onto the disk: resolve, plan, fetch, verify, assemble; and finds what the disk lost.

May import transfer, trust and disk. Runs in the worker process only; it never switches a pointer.
"""
