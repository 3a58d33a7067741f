"""What runs a model file: the runtime port, tensors and datatypes, ONNX Runtime, scikit-learn, scoring scripts.

Imports nothing of the other rooms. It never knows versions, pointers or requests.
"""
