"""Reads an upload of somebody whom nobody vouches for, first, in a process that has nothing to give away.

May import protocol only; `landlock` and `syscall_filter` are the devices' own, to the byte. It publishes nothing and
judges nothing: it says whether the readers come through it, within bounds of time and memory.
"""
