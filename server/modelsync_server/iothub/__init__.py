"""Any IoT hub's terms and service REST: connection strings, SAS, identities, twin documents, a client.

Imports nothing of ours. It never listens.
"""
