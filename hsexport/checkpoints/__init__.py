"""The pair as it lies on disk: found, read by config and header alone, and checked before anything is traced."""

from .config import TransformerConfig
from .errors import PairError
from .pair import Pair, load_pair

__all__ = ["Pair", "PairError", "TransformerConfig", "load_pair"]
