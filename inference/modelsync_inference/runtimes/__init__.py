"""What runs a model file: the runtime port, tensors and datatypes, ONNX Runtime, LiteRT, OpenVINO, llama.cpp,
scikit-learn, scoring scripts. Each is imported where a model of its kind is loaded.

Imports nothing of the other rooms. It never knows versions, pointers or requests.
"""
