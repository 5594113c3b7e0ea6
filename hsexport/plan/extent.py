"""How much a run of a transformer is over, and its operations."""

from __future__ import annotations

from dataclasses import dataclass

from hsruntime.facts import Transformer, counted
from hsruntime.loop.buffers import LoopShape


@dataclass(frozen=True)
class Extent:
    """How much a run of a transformer is over: rows G, active M of N tokens, T text tokens, these cached or live."""

    rows: int
    active: int
    tokens: int
    text: int
    text_cached: bool = False

    @property
    def dims(self) -> dict[str, int]:
        """By the names that operations have for them; L are the text tokens that go through the network."""
        live = 0 if self.text_cached else self.text
        return {"G": self.rows, "M": self.active, "N": self.tokens, "T": self.text, "L": live}

    @classmethod
    def of(cls, shape: LoopShape, rows: int, text: int, *, region: bool = False) -> Extent:
        """A run over a whole picture, or over its region."""
        active = shape.active if region else shape.tokens
        return cls(rows, active, shape.tokens, text, text_cached=region and shape.text_cached)


def pass_flops(model: Transformer, over: Extent) -> dict[str, int]:
    """Of one run, all rows together, by part of the network: what a counter finds in the exported graph, to the last
    one.
    """
    return {part: counted(terms, **over.dims) for part, terms in model.operations.items()}
