"""What is desired against what is here: decides, runs updates, and does what a person asks for one model.

May import activate, workers' messages, transfer's names of secrets, disk and timing. It never talks to a hub or an
origin.
"""
