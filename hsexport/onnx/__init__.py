"""Torch to ONNX."""
