"""Which network leads to the origin now, and which of the policy's rules is in force on it.

May import transfer (whether a neighbour answers) and timing. It fetches nothing, stores nothing, and is asleep unless
there are rules and something waits or is being fetched.
"""
