"""Which versions a store keeps, and what of it may go: pruning by policy, and collecting what nothing refers to.

May import publish (prices), rollout (what a hub's twins still name), store and trust. It never withdraws: a pruned
version is not taken back, devices that run it go on. It never prunes the newest version, nor one that is desired or
that the policy keeps.
"""
