"""What proves to a private origin who asks: signatures of requests, for devices and the publisher alike.

May import the ground. It does no I/O, and is imported only where an access key is configured.
"""
