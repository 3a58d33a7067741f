"""Block-quantised tensors: types of blocks in their parts, and encoding 9, which carries them. No I/O here.

May import codecs. Everything that both sides compute is integers alone; where tensors lie is containers' matter.
"""
