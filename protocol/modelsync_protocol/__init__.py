"""modelsync's formats: chunks, manifests, packs, updates, the plan and the twin schema (no I/O)."""
