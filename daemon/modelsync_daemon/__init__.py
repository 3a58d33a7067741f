"""modelsync's on-device daemon: follows the twin, fetches what is missing, proves it and activates it."""
