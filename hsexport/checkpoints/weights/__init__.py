"""Where a network's numbers come from: a checkpoint's tensors, read one at a time and only when somebody looks."""

from hsexport.checkpoints.weights.weights import Changed, Stored, Weight, Weights

__all__ = ["Changed", "Stored", "Weight", "Weights"]
