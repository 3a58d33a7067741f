"""What the publisher needs of the tensor encodings: pairing, cutting, fitting, counting into tables, writing rANS.

Imports the protocol only, does no I/O, and never chooses between encodings: that is `encode/`.
"""
