"""What a process gives up before it runs a model's code: files, system calls, network.

Imports nothing of the other rooms. It never starts or loads a model.
"""
