"""The temperature anomaly detector: data, training, committed outputs."""
