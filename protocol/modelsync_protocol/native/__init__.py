"""The compiled core, if this machine has one: finding it, checking that it is of this version, calling it.

It knows C functions and NumPy arrays, and no encoding: `codecs/` (and the encoder) asks it where it is there and
computes in NumPy where it is not, which is the reference. The memory that frames are decoded in, one after the other,
is here too. May import ground. It never decides what bytes mean, and what it is not asked for it doesn't load: nothing
here runs in the resident daemon.
"""
