"""Where a network's numbers come from: a checkpoint's tensors, read one at a time and only when somebody looks."""

from hsexport.checkpoints.weights.weight import Changed, Stored, Weight
from hsexport.checkpoints.weights.weights import Weights

__all__ = ["Changed", "Stored", "Weight", "Weights"]
