"""MQTT: packets of 3.1.1 and 5, bytes to packets and back; the topics by which a plain broker carries a twin.

May import ground and what a twin is. It does no input or output, and the codec knows no topic's meaning.
"""
