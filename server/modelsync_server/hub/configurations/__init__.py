"""Automatic configurations and layered deployments: kept, applied to twins, measured, served over REST.

May import the hub's query, state, registry and iothub. It never talks MQTT: the registry's listeners do.
"""
