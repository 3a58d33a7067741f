"""Scratch space: what is larger than memory while a version is made or checked lies in files, and goes with its use.

It knows which folder is a disk, maps files so that their resident pages stay few, and keeps payloads. It imports no
other room, and never knows what the bytes are.
"""
