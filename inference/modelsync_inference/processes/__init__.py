"""Worker processes, in which models run: forking, confining, talking to them, and noticing their end.

May import runtimes and confinement. It never knows versions, pointers or requests.
"""
