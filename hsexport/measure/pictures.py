"""Pictures as PNG files and back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def png_of(picture: np.ndarray | Image.Image, **options: Any) -> bytes:
    """A picture (H, W, 3) or mask (h, w) uint8 as a PNG."""
    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, format="PNG", **options)
    return stream.getvalue()


def pixels_of(png: bytes) -> np.ndarray:
    """What `png_of` was given."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)
