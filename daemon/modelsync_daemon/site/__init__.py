"""The resident's side of a site: serves what this device holds to neighbours, and remembers who fetches what.

May import config, disk, reconcile (the device) and transfer (how neighbours and the origin are reached). Imported only
where a site is configured. It verifies nothing and vouches for nothing: a neighbour is a cache. It never decides what
this device fetches.
"""
