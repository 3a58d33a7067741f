"""The digits CNN: network, training, export, committed outputs."""
