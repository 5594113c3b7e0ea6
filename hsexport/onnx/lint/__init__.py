"""Says in words what a backend would choke on in an exported graph."""

from hsexport.onnx.lint.finding import Finding
from hsexport.onnx.lint.rules import lint

__all__ = ["Finding", "lint"]
