"""The operator's page: what the hub says of a fleet as server-rendered HTML, with buttons for what commands do.

May import library, rollout, iothub, store and trust. It keeps no state but short-lived copies of what the hub answered,
decides nothing, and reads no fleet whole.
"""
