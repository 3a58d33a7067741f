"""The application that is in the environment: trains in the cloud, scores on the device, by the very same packages.

It is packed as a wheel by the story and imports what its lock pins, and the standard library; nothing of modelsync.
"""
