"""Pictures on the way out: PNG files with their recipe, region overlays, contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from hsengines.errors import HSError
from hsengines.files import replaced

GUTTER = 8
LABEL_HEIGHT = 22


def save_png(path: Path, picture: np.ndarray, recipe: dict[str, str]) -> None:
    """Writes (H, W, 3) uint8 with `recipe` as text chunks; the same arguments give the same bytes.

    A file of that name is replaced in one go, or stays what it was. Raises HSError.
    """
    info = PngInfo()
    for key, value in recipe.items():
        info.add_itxt(key, value)
    try:
        with replaced(path) as part:
            Image.fromarray(picture).save(part, format="PNG", pnginfo=info)
    except OSError as err:
        told = f"'{path}' could not be written: {err.strerror or err}"
        raise HSError(told, "free some space, or write elsewhere") from err


def region_overlay(picture: np.ndarray, mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The picture (H, W, 3) with cached tokens faded to grey and the region's border drawn; mask (N,), grid (h, w)."""
    height, width = picture.shape[:2]
    scale = (height // grid[0], width // grid[1])
    active = mask.reshape(grid).repeat(scale[0], 0).repeat(scale[1], 1)
    grey = picture.mean(axis=2, keepdims=True) * 0.35 + 150
    out = np.where(active[..., None], picture, grey.astype(np.uint8))
    out[_border(active)] = (230, 0, 90)
    return out.astype(np.uint8)


def _border(active: np.ndarray) -> np.ndarray:
    """Active pixels with an inactive neighbour."""
    padded = np.pad(active, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return active & ~inner


def contact_sheet(columns: dict[str, list[np.ndarray]], rows: list[str]) -> Image.Image:
    """A labelled grid: `columns` maps a heading to one picture (H, W, 3) per row, `rows` are the captions."""
    first = next(iter(columns.values()))[0]
    height, width = first.shape[:2]
    font = ImageFont.load_default(14)
    caption_width = 16 + max(int(font.getlength(row)) for row in rows)
    sheet = Image.new(
        "RGB",
        (caption_width + len(columns) * (width + GUTTER), LABEL_HEIGHT + len(rows) * (height + GUTTER)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for r, caption in enumerate(rows):
        draw.text((6, LABEL_HEIGHT + r * (height + GUTTER) + height // 2 - 8), caption, "black", font)
    for c, (heading, pictures) in enumerate(columns.items()):
        left = caption_width + c * (width + GUTTER)
        draw.text((left + 2, 3), heading, "black", font)
        for r, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (left, LABEL_HEIGHT + r * (height + GUTTER)))
    return sheet
