"""Passes over ONNX graphs, one a file."""
