"""Says in words what a backend would choke on in an exported graph."""

from hsexport.lint.finding import Finding
from hsexport.lint.lint import lint

__all__ = ["Finding", "lint"]
