"""Which version should serve: follows the pointers, loads, switches, refuses, frees, and reports to the daemon.

May import model and runtimes. It never answers a request.
"""
