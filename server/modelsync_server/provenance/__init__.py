"""Who says where a model comes from: signatures and attestations that lie beside it, and its bill of materials.

May import protocol only. It publishes nothing and reads no model. Its libraries are the extra `provenance`.
"""
