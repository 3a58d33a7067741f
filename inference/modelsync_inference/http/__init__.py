"""The Open Inference Protocol v2 over HTTP, with Triton's extensions, `/score` and metrics.

May import handle, model and runtimes. It never loads a model by itself.
"""
