"""MQTT packets, 3.1.1 and 5: bytes to packets and back, for the hub's devices, the local hub and brokers' clients.

Imports nothing of ours. It does no input or output, and knows no topic's meaning.
"""
