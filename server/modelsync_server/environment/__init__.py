"""From one lock, or from conda-pack's archive, to a folder that is a Python environment (`modelsync environment`).

Knows wheels, locks, and what pip, venv and conda leave behind that differs by machine; what is made may lie
anywhere, and the same input gives the same bytes. May import protocol only; runs pip, and nothing of a package. It
publishes nothing: the folder is an artifact like any other. `device/` is what the folder carries for the device that
runs it: it imports the standard library only.
"""
