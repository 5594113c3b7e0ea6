"""Distances between pictures of one prompt and noise: (count, H, W, 3) uint8 twice, to (count,) float64."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from hsengines.errors import ShapeError
from hsexport.measure.perceptual.network import LPIPS, STLPIPS

Number = TypeVar("Number", float, np.ndarray)
ROUNDING_ERROR = 1 / 12
"""Mean squared error of rounding to whole grey levels: two uint8 pictures cannot be told apart below it."""


def psnr(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB; equal pictures get what rounding alone would leave, 58.9 dB."""
    _check_pictures(pictures, references)
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(pictures, references, strict=True)]
    return 10 * np.log10(255**2 / np.maximum(np.asarray(errors, np.float64), ROUNDING_ERROR))


def ssim(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Structural similarity over 7x7 windows, mean over the colours; 1 for equal pictures."""
    from skimage.metrics import structural_similarity

    _check_pictures(pictures, references)
    pairs = zip(pictures, references, strict=True)
    return np.array([structural_similarity(a, b, channel_axis=2) for a, b in pairs], np.float64)


def flip(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """FLIP's mean error (Andersson et al. 2020) at its default of 67 pixels per degree: 0 for equal pictures, to 1."""
    import flip_evaluator

    _check_pictures(pictures, references)
    found = []
    for picture, reference in zip(pictures, references, strict=True):
        sides = (side.astype(np.float32) / np.float32(255) for side in (reference, picture))
        found.append(flip_evaluator.evaluate(*sides, "LDR", applyMagma=False)[1])
    return np.array(found, np.float64)


def stlpips(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """ST-LPIPS: 0 for equal pictures, of others seldom above 1. Raises BackendUnavailable without ONNX Runtime."""
    _check_pictures(pictures, references)
    return STLPIPS.distances(pictures, references)


def lpips(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """LPIPS, where `scripts/export_perceptual` has written its graph: as `stlpips`."""
    _check_pictures(pictures, references)
    return LPIPS.distances(pictures, references)


@dataclass(frozen=True)
class Metric:
    """A distance as tables and plots know it."""

    name: str
    title: str
    decimals: int
    higher_is_closer: bool
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def turned(self, value: Number) -> Number:
        """A value as a distance: less is closer."""
        return -value if self.higher_is_closer else value

    def shown(self, value: float) -> str:
        """A value with the metric's name and unit."""
        name, _, unit = self.title.partition(", ")
        return f"{name} {value:.{self.decimals}f} {unit}".rstrip()

    def shown_difference(self, value: float) -> str:
        """A difference of two values with its unit, one digit finer than the values."""
        return f"{value:.{self.decimals + 1}f} {self.title.partition(', ')[2]}".rstrip()


METRICS = (
    Metric("psnr", "PSNR, dB", 1, True, psnr),
    Metric("ssim", "SSIM", 3, True, ssim),
    Metric("flip", "FLIP", 3, False, flip),
    Metric("stlpips", "ST-LPIPS", 4, False, stlpips),
    *([Metric("lpips", "LPIPS", 3, False, lpips)] if LPIPS.file.is_file() else []),
)


def _check_pictures(pictures: np.ndarray, references: np.ndarray) -> None:
    """Raises ShapeError unless both are as many uint8 pictures of one size."""
    for subject, found in (("pictures", pictures), ("references", references)):
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3:
            raise ShapeError(f"{subject} are {found.dtype} {found.shape}, expected uint8 (count, H, W, 3)")
    if pictures.shape != references.shape:
        raise ShapeError(f"pictures are {pictures.shape}, references {references.shape}, expected the same shape")


def png_of(picture: np.ndarray | Image.Image, **options: Any) -> bytes:
    """A picture (H, W, 3) or mask (h, w) uint8 as a PNG."""
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(stream, format="PNG", **options)
    return stream.getvalue()


def pixels_of(png: bytes) -> np.ndarray:
    """What `png_of` was given."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)
