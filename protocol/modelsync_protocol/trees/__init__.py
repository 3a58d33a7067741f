"""Ensembles of trees as columns: readers of their formats, and an adaptive coder that both sides run alike. No I/O.

FORMAT.md §tree-columns. `frame` is the entry; everything here is integers, or single IEEE 754 float64 operations.
"""
