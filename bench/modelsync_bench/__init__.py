"""modelsync-bench: what an update costs with each way of doing it, in real bytes on a real line.

`modelsync-bench run` publishes model pairs with modelsync and with its peers, lets a device (processes of their own
in a network namespace of their own) fetch the new version, proves that what arrived is bit-exact, and counts.

    scenario × pair × peer × link  ──►  Measurement  ──►  one JSON file (result.py), from which reports are made

- result.py      the result's schema: read this first to use a result
- lab.py         the line's port; namespaces.py counts on an interface, relay_lab.py with a relay where those are
                 not permitted; links.py names the lines, line.py delays packets
- peers/         one file a peer behind peers/port.py
- harness.py     one measurement, and the checks that a cheating peer does not pass
- scenarios.py   which jobs a scenario is made of; story.py, cuts.py and environment.py hold the long ones
- runner.py      all of them in order, resumable, with progress
"""
