"""The front door for Python: a store as one object whose methods are what a publisher does; the command line uses it.

May import every other room but cli, origin, triggers and hub. It never prints, never reads arguments, never exits.
"""
