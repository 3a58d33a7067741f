"""modelsync's publisher: cuts, encodes, signs and serves model artifacts, and a local IoT hub."""
