"""Brings a complete version into service and back: probing, pointer, probation, rollback; and who serves it.

May import disk and timing. It never fetches, and knows neither the hub nor the twin.
"""
