"""Applications that don't follow the pointers: how each is told of a version, and how it is seen that it loaded it.

It reads `[models.NAME.activate]` and `[consumers.LABEL]`, and implements the port of activate/consumer.py. May import
activate, config, confinement and disk. It never touches pointers or states, takes no command from the twin, and runs no
shell. Imported only where the settings name such an application.
"""
