"""What a worker gives up before it reads a byte from outside: files, system calls, network, environment, descriptors.

Imports nothing of the other rooms. It fetches, parses and decides nothing. `landlock`, `syscall_filter` and
`inheritance` are the inference package's, to the byte (tests/daemon/confinement/): neither package imports the other.
"""
