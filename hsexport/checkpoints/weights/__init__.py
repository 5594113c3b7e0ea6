"""Where a network's numbers come from: a checkpoint's tensors, read one at a time and only when somebody looks."""

from .weight import Changed, Stored, Weight
from .weights import Weights

__all__ = ["Changed", "Stored", "Weight", "Weights"]
