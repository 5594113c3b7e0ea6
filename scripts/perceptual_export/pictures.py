"""Pictures that any machine makes alike, to compare distances on."""

from __future__ import annotations

import numpy as np


def scene(height: int, width: int) -> np.ndarray:
    """A disc and a bar before stripes that grow finer: (height, width, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    stripes = np.sin(60 * x * (1 + x)) * np.cos(25 * y)
    disc, bar = (x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.04, abs(y - 0.25) < 0.05
    colours = zip((0.1, 0.3, 0.8), (0.9, 0.5, 0.2), strict=True)
    red, green, blue = (np.where(bar, b, np.where(disc, d, 0.5 + 0.3 * stripes)) for b, d in colours)
    shaded = np.stack([red, green * (0.5 + 0.5 * y), blue * (0.5 + 0.5 * x)], axis=2)
    return (255 * shaded).round().astype(np.uint8)


def noisy(picture: np.ndarray, deviation: float) -> np.ndarray:
    """With normal noise of so many grey levels."""
    noise = np.random.default_rng(0).normal(0, deviation, picture.shape)
    return (picture + noise).round().clip(0, 255).astype(np.uint8)


def moved(picture: np.ndarray, pixels: int) -> np.ndarray:
    """To the right; what comes in at the left edge is the edge."""
    return np.concatenate([picture[:, :1].repeat(pixels, 1), picture[:, :-pixels]], axis=1)


def blurred(picture: np.ndarray) -> np.ndarray:
    """The mean of 3x3 places, the edges repeated."""
    height, width = picture.shape[:2]
    edged = np.pad(picture.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    places = [edged[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    return np.mean(places, axis=0).round().astype(np.uint8)


def pairs(least_side: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A picture and its reference, under a name that says what was done and the size; the last is of the least size."""
    square, wide, least = scene(128, 128), scene(96, 161), scene(least_side, least_side)
    return {
        "noise of 4, 128x128": (noisy(square, 4), square),
        "noise of 32, 128x128": (noisy(square, 32), square),
        "moved by 1, 128x128": (moved(square, 1), square),
        "moved by 8, 128x128": (moved(square, 8), square),
        "blurred, 161x96": (blurred(wide), wide),
        "turned over, 161x96": (wide[::-1].copy(), wide),
        "in other colours, 512x512": (scene(512, 512)[..., ::-1].copy(), scene(512, 512)),
        "least size": (noisy(least, 32), least),
    }
