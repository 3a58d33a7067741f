"""`modelsyncd doctor`: looks at settings, data directory, daemon, origin and hub, and says which command mends what.

May import config, disk, local, transfer and trust. It changes nothing, and nothing resident imports it.
"""
