"""Retrieval: is a picture nearest to its own name's rendering, among all renderings of the corpus?"""

from __future__ import annotations

import numpy as np

CELL = 4  # pixels averaged along each side: 128x128 pictures are compared as 32x32


def averaged(pictures: np.ndarray) -> np.ndarray:
    """Pictures (count, H, W, 3) uint8 as flat vectors of cell averages, float32."""
    count, height, width, channels = pictures.shape
    cells = pictures.reshape(count, height // CELL, CELL, width // CELL, CELL, channels)
    return cells.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)


def ranks(pictures: np.ndarray, own: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """How many renderings (all, H, W, 3) lie nearer to each picture than its own, number `own[i]`; 0 is a hit.

    Distance: Euclidean over cell averages, so that colour and form count and fine texture does not.
    """
    made, renderings = averaged(pictures), averaged(corpus)
    squares = (made**2).sum(1)[:, None] + (renderings**2).sum(1)[None] - 2 * made @ renderings.T
    return (squares < squares[np.arange(len(own)), own][:, None]).sum(axis=1)
