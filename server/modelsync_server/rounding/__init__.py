"""Rounds a model file's update within a drift that its author allows (`modelsync snap`): what answers change by, which
step is coarsest, the rounded file. It may import publish, encode and tensors; it publishes nothing.
"""
