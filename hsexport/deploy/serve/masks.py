"""Masks as OpenAI has them: transparent where a picture is drawn anew."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageOps

from hsruntime.picture.original import FORMATS, HALF, MOST_PIXELS


def mask_from_openai(data: bytes) -> bytes:
    """A file of a picture that is white where the given one is transparent; without any transparency it is as given.

    What is wrong with a file is told where masks are read: it passes as it is.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if not image.has_transparency_data or image.width * image.height > MOST_PIXELS:
            return data
        clear = np.asarray(ImageOps.exif_transpose(image.convert("RGBA")).getchannel("A")) < HALF
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        return data
    if not clear.any():  # browsers and painting programs write an alpha that says nothing
        return data
    file = io.BytesIO()
    Image.fromarray(clear).save(file, "PNG", compress_level=1)
    return file.getvalue()
