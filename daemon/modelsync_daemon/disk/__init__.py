"""What lies in the data directory: layout and lock, durable writing, pointers, state.db and what is kept in it.

Imports nothing of the daemon's other rooms. It never opens a connection, starts a process or decides what should be
there.
"""
