"""This machine's side: the Unix socket, metrics, systemd's notifications.

May import reconcile, activate, disk and timing. It never talks to the hub or the origin.
"""
