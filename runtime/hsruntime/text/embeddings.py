"""Text embeddings: what prompts become, for callers who keep them or make them elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TextEmbeddings:
    """Rows of what the transformers are conditioned on: under guidance negative prompts' first, then prompts'.

    float32 whatever the engines take: the way there and back is exact for each of their types.
    """

    text: np.ndarray  # (G, T, Dt) float32
    pooled: np.ndarray  # (G, Dp) float32

    @property
    def rows(self) -> int:
        """G."""
        return len(self.text)
