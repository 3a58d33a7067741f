"""What the stories (examples/mine and its sisters) have in common; the story itself is told elsewhere.

Knows how to start, watch and kill processes, how to hurt them, what a report, a bill and a plot look like, how an image
is built and pulled, how a hub and an origin stand for the cloud, what a module of edgeHub is, and what the kernel
counted. May import the examples' demo/ and modelsync's packages; never a story, and it never decides whether a promise
held.
"""
