"""Graphs to TensorRT engines; a driver is needed by the classic one alone."""
