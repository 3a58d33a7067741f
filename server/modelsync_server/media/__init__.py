"""Offline media: what of a store goes onto a stick, written so that it survives being pulled out; reports carried back.

May import store, trust, publish's listing, and for the way back iothub and the hub's MQTT packets. It signs nothing and
writes to no store.
"""
