"""The adaptive coder of tree ensembles' columns, which both sides run alike (FORMAT.md §tree-columns). No I/O here.

May import codecs. Everything is integers, or single IEEE 754 float64 operations; files are tree_files' matter.
"""
