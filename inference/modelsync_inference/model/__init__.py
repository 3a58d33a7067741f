"""One version: its files, its load and probe, the lease under which it answers, its trial beside another one.

May import runtimes. It never decides which version should serve.
"""
