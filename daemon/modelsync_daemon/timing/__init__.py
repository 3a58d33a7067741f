"""How long to wait: backoff with jitter, limits on waiting, stalls, the spread of first connections.

Imports nothing of the daemon's. It never does I/O (but for reading the machine's uptime) and decides nothing else.
"""
