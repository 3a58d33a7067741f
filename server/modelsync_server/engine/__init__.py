"""Runs lists of independent calls in other processes, on this machine or on a cluster, whatever those calls do.

It knows workers: starting them, handing them one call after another, that any of them may die, and what a call that
kills them looks like. It imports no other room and never knows a store, a key or an encoding: a call is a function's
name and plain values, its answer plain values.
"""

from modelsync_server.engine.opening import open_engine
from modelsync_server.engine.port import Call, Engine

__all__ = ["Call", "Engine", "open_engine"]
