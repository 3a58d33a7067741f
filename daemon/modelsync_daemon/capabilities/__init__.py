"""What this device has for a model to run: looked at, said by inference processes, set by hand; and what it refused.

May import disk. It never imports a runtime, and judges nothing (that is the worker's, build/supported.py).
"""
