"""The hub: connection, twin, reports, direct methods, identity. Azure IoT Hub behind a port of ours.

May import reconcile, disk and timing. It never decides what is to be done with a desired property.
"""
