"""The operator's page: what the hub says of a fleet as server-rendered HTML, with buttons for what commands do.

May import library, rollout, iothub, store and trust. It keeps short-lived copies of what the hub answered and a
bounded memory of what devices reported while somebody looked, and no other state; it decides nothing, and reads no
fleet whole.
"""
