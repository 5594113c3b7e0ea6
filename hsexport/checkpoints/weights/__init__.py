"""Where a network's numbers come from: a checkpoint's tensors, read one at a time and only when somebody looks."""

from hsexport.checkpoints.quantised import Quantised
from hsexport.checkpoints.weights.weights import Origin, Weight, Weights, changed, stored

__all__ = ["Origin", "Quantised", "Weight", "Weights", "changed", "stored"]
