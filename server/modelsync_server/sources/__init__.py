"""Brings a model from where a team keeps it (MLflow, Hugging Face, Azure ML, DVC, OCI, git, zip files) to a folder.

It knows these services' addresses, interfaces and credentials, and says which state it brought, so that this can be
signed. May import store (Azure's addresses). It publishes nothing, signs nothing, and never writes a credential down.
"""
