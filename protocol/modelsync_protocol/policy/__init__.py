"""A twin's policy: times of day, neighbours, rules by network; what is read of it, and what is wrong with it.

May import ground. No I/O, and it judges no device: what is in force where is the daemon's business.
"""
