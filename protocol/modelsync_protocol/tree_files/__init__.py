"""Files of tree ensembles: where their columns lie, and encoding 7, which carries them. No I/O here.

May import trees (the coder), containers and codecs. Nothing is executed.
"""
