"""Changes of low rank, as merged adapters leave them: found in a pair of matrices or taken from the adapter; written.

Imports `scratch/`, `tensors/` and the protocol. Reads a file only when it is an adapter, and never encodes a frame.
"""
