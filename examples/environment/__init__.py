"""The story of one environment in cloud and on the edge: `python -m examples.environment`."""
