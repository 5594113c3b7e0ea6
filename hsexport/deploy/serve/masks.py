"""Masks as OpenAI has them: transparent where a picture is drawn anew."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hsruntime.picture.original import HALF, open_picture, png_bytes
from hsruntime.request import RequestError


def mask_from_openai(data: bytes) -> bytes:
    """A file of a picture that is white where the given one is transparent; without any transparency it is as given.

    What is wrong with a file is told where masks are read: it passes as it is.
    """
    try:
        image = open_picture("mask", data)
    except RequestError:
        return data
    if not image.has_transparency_data:
        return data
    clear = np.asarray(image.convert("RGBA").getchannel("A")) < HALF
    if not clear.any():  # browsers and painting programs write an alpha that says nothing
        return data
    return png_bytes(Image.fromarray(clear))
