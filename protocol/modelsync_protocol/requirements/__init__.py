"""What a version needs of the device that runs it, in the field's terms, and whether a device has it. No I/O here.

It knows keys, their spelling in signed metadata (FORMAT.md §12.5), and what runtimes' releases can read; it may import
the ground only. It never guesses: what nobody can tell is neither met nor missing.
"""
