"""The short-lived process for heavy work: how it is started, what it is told, what it answers.

May import build, trust, transfer's errors and disk; what the resident process imports of it imports none of the heavy
parts. It never decides what is to be done.
"""
