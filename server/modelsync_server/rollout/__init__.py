"""Rollouts: a release goes through rings of a fleet behind gates, steered by IoT Hub configurations alone.

The hub is the fleet's state, the store is the catalogue; nothing is kept here. May import iothub, query, publish
(prices), store, trust and push. The command line and the page read it through `reading`.
"""
