"""Plain MQTT brokers and AWS IoT in a hub's place, seen by the operator: twins, calls and queries over their messages.

May import iothub and query. It keeps nothing, and never speaks in a device's name.
"""
