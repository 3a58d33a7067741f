"""modelsync's hot-swapping model handle and Open Inference Protocol server."""
