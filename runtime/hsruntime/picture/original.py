"""Pictures on the way in: files of any size and kind, as what a picture begins from, and as marks on it."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from hsengines.errors import first_line
from hsruntime.facts import REFERENCE, Facts, Latent, Size, Sizes, size_text
from hsruntime.loop.region import marked_tokens
from hsruntime.request import RequestError
from hsruntime.telling import warn_caller

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 2**26
"""Of a file; it is looked at before any of them is unpacked."""
BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error)
"""What Pillow's readers raise for broken files."""
HALF = 128
"""From which brightness on a mask marks."""
MOST_BLUR = 1000.0

PictureFile = bytes | str | Path | np.ndarray | Image.Image
"""As Python callers give one: a file's bytes or its path, (H, W), (H, W, 3) or (H, W, 4) uint8, or Pillow's."""


class PictureWarning(UserWarning):
    """A picture or mask that was not taken quite as it was given."""


@dataclass(frozen=True)
class Original:
    """What a picture begins from."""

    pixels: np.ndarray  # (H, W, 3) uint8
    drawn: np.ndarray | None  # (H, W) bool, true where it is drawn anew; None for everywhere
    blur: float
    """Pixels over which what is drawn fades in, from the mask's edge inwards."""

    @property
    def digest(self) -> str:
        """The same for the same picture, mask and edge."""
        whole = hashlib.sha256(self.pixels.tobytes())
        whole.update(b"" if self.drawn is None else self.drawn.tobytes())
        return f"{whole.hexdigest()} {self.pixels.shape} {self.blur}"

    def drawn_latents(self, scale: int) -> np.ndarray:
        """(h, w) float32: 1 for a latent of which any pixel is drawn anew."""
        assert self.drawn is not None
        height, width = self.drawn.shape
        return marked_tokens(self.drawn, (height // scale, width // scale)).astype(np.float32)

    def pasted(self, images: np.ndarray) -> np.ndarray:
        """Pictures (B, H, W, 3) uint8 with the original's own pixels where nothing was to be drawn."""
        if self.drawn is None:
            return images
        weight = self._weight()[..., None]
        mixed = self.pixels + weight * (images.astype(np.float32) - self.pixels)
        return mixed.round().astype(np.uint8)

    def _weight(self) -> np.ndarray:
        """How much of what was drawn each pixel takes (H, W): none outside the mask, all of it deep inside."""
        assert self.drawn is not None
        if not self.blur:
            return self.drawn.astype(np.float32)
        soft = Image.fromarray(np.where(self.drawn, 255, 0).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(self.blur)
        )
        return np.clip(np.asarray(soft, np.float32) / 127.5 - 1, 0, 1) * self.drawn


def read_picture(subject: str, data: bytes) -> Image.Image:
    """A file's picture as RGB of 8 bits, upright, what is transparent on white. Raises RequestError."""
    return _laid_on("white", open_picture(subject, data)).convert("RGB")


def _laid_on(colour: str, image: Image.Image) -> Image.Image:
    """The picture with what is transparent in that colour."""
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image.convert("RGBA"))


def read_mask(subject: str, data: bytes, size: Size, given: Size | None = None) -> np.ndarray:
    """Where a file's picture is bright, as (H, W) bool at `size` (width, height); what is transparent is dark.

    Raises RequestError for a mask that marks nothing. Warns of one that marks everything, and of one whose size is not
    that of the picture as it was `given`, or, where there is none, whose shape is another.
    """
    image = _laid_on("black", open_picture(subject, data))
    width, height = image.size
    if image.size != given if given else width * size[1] != height * size[0]:
        own, other = size_text(image.size), size_text(given or size)
        warn_caller(f"the {subject} has {own} pixels, the picture {other}: it is stretched over it", PictureWarning)
    grey = image.convert("L")
    marked = np.asarray(grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR)) >= HALF
    if not marked.any():
        raise RequestError(f"the {subject} marks nothing: no pixel of it is bright", "paint white what is meant")
    if marked.all():
        warn_caller(f"the {subject} marks the whole picture", PictureWarning)
    return marked


def open_picture(subject: str, data: bytes) -> Image.Image:
    """A file's picture of 8 bits, upright, in whatever colours it has. Raises RequestError."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            told = f"the {subject} has {size_text(image.size)} pixels, at most {MOST_PIXELS} are read"
            raise RequestError(told, "make it smaller")
        image.load()
        return _upright(_of_8_bits(image))
    except Image.DecompressionBombError as err:
        told = f"the {subject} has more pixels than the {MOST_PIXELS} that are read"
        raise RequestError(told, "make it smaller") from err
    except BROKEN as err:
        told = f"the {subject} is no picture that can be read: {_told(err)}"
        raise RequestError(told, "give a whole PNG, JPEG or WebP") from err


def _told(err: Exception) -> str:
    return "it is none of PNG, JPEG, WEBP" if isinstance(err, Image.UnidentifiedImageError) else first_line(err)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as a camera's note says; a broken note says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except BROKEN:
        return image


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts greys of 16 bits off at 255 where it converts them."""
    if not image.mode.startswith("I"):
        return image
    eight = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    eight.info = image.info
    return eight


def read_reference(subject: str, data: bytes, facts: Facts) -> np.ndarray:
    """A picture to draw after (H, W, 3) uint8, no larger than the bundle takes, its sides cut to whole tokens.

    As those of diffusers' pipelines do it that take such pictures. Raises RequestError.
    """
    image, unit = read_picture(subject, data), facts.latent.pixels_per_token
    most, area = facts.sizes.maximum, image.width * image.height
    scale = min(1.0, (REFERENCE / area) ** 0.5, *(side / own for side, own in zip(most, image.size, strict=True)))
    if scale < 1:
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.LANCZOS)
    width, height = (side // unit * unit for side in image.size)
    if not (width and height):
        raise RequestError(f"the {subject} has {size_text(image.size)} pixels, of which none make a token of {unit}")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


def size_like(asked: Size, sizes: Sizes, latent: Latent) -> Size:
    """The size nearest to that of a picture (width, height) that the bundle draws, its shape kept as far as it can."""
    scale = min(1.0, *(most / side for most, side in zip(sizes.maximum, asked, strict=True)))
    scale = max(scale, *(least / side for least, side in zip(sizes.minimum, asked, strict=True)))
    multiple = latent.pixels_per_token
    sides = (round(scale * side / multiple) * multiple for side in asked)
    bounds = zip(sides, sizes.minimum, sizes.maximum, strict=True)
    width, height = (_within(side, least, most, multiple) for side, least, most in bounds)
    return width, height


def _within(side: int, least: int, most: int, multiple: int) -> int:
    return max(-(-least // multiple) * multiple, min(side, most // multiple * multiple))


def file_bytes(subject: str, given: PictureFile | None) -> bytes | None:
    """What a caller gave as a file's bytes; arrays become a PNG. Raises RequestError."""
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, str | os.PathLike):
        try:
            return Path(given).read_bytes()
        except OSError as err:
            raise RequestError(f"the {subject} {given} cannot be read: {err.strerror or err}") from err
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim not in (2, 3) or 0 in given.shape:
            told = f"the {subject} is {given.dtype}{given.shape}, expected uint8 of (H, W), (H, W, 3) or (H, W, 4)"
            raise RequestError(told)
        try:
            given = Image.fromarray(given)
        except TypeError as err:
            raise RequestError(f"the {subject} is no picture: {err}") from err
    return png_bytes(given)


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a file that is soon read again: quickly written, not small."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def checked_blur(blur: float | None) -> float:
    """Pixels. Raises RequestError."""
    blur = 0.0 if blur is None else float(blur)
    if not 0 <= blur <= MOST_BLUR:  # false for nan as well
        raise RequestError(f"mask_blur {blur:g} lies outside 0..{MOST_BLUR:g}", "8 pixels or so make a soft edge")
    return blur
