"""Where the tiles of a picture lie, and how decoded tiles become one picture again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hsengines.errors import ShapeError
from hsruntime.bundle.manifest import Manifest

OVERLAP_PARTS = 4
"""Neighbours share a quarter of their side, as AutoencoderKL's tile_overlap_factor has it."""


@dataclass(frozen=True)
class Tiles:
    """Tiles of one size that cover latents; numbers count latents."""

    size: tuple[int, int]  # (h, w)
    tops: tuple[int, ...]  # ascending
    lefts: tuple[int, ...]


def tile_side(manifest: Manifest, pixels: int | None) -> int | None:
    """Latents along a tile's side; None for pictures decoded whole. Raises ShapeError for what no tile can be."""
    if pixels is None:
        return None
    scale = manifest.facts.latent.vae_scale
    low, high = _side_range(manifest)
    low = max(low, OVERLAP_PARTS)
    if not low * scale <= pixels <= high * scale:
        raise ShapeError(
            f"vae_tile {pixels} lies outside the {low * scale}..{high * scale} pixels that the bundle's VAE decodes",
            "take one in between, or decode whole pictures",
        )
    if pixels % scale:
        nearest = pixels - pixels % scale
        raise ShapeError(
            f"vae_tile {pixels} is not a multiple of {scale}, a latent's side in pixels",
            f"try {nearest} or {nearest + scale}",
        )
    return pixels // scale


def _side_range(manifest: Manifest) -> tuple[int, int]:
    """The latents that a profile of the decoder takes along both sides; the largest picture's without a profile."""
    record, sizes = manifest.engines["vae_decoder"], manifest.facts.sizes
    sides = [(p.dims["h"], p.dims["w"]) for p in record.spec.profiles if {"h", "w"} <= p.dims.keys()]
    if not sides:
        return 1, min(sizes.maximum) // manifest.facts.latent.vae_scale
    ranges = ((max(h.minimum, w.minimum), min(h.maximum, w.maximum)) for h, w in sides)
    return max(ranges, key=lambda found: found[1] - found[0])


def tiles_over(extents: tuple[int, int], side: int | None) -> Tiles:
    """Tiles for latents of extents (h, w), `side` along each side or as much as there is; one tile without a side.

    The last tile of a row or column is moved inwards and stays as large as the others. AutoencoderKL.tiled_decode cuts
    it short instead, down to slivers that the decoder sees without their surroundings; and with one size for all, one
    binding and its buffers serve every tile.
    """
    h, w = (extent if side is None else min(side, extent) for extent in extents)
    return Tiles((h, w), _starts(extents[0], h), _starts(extents[1], w))


def _starts(extent: int, side: int) -> tuple[int, ...]:
    last, stride = extent - side, side - side // OVERLAP_PARTS
    return (*range(0, last, stride), last)


def assembled(
    tiles: Tiles, scale: int, shape: tuple[int, ...], decoded: Callable[[int, int], np.ndarray]
) -> np.ndarray:
    """Pictures of `shape` (B, H, W, 3) float32 out of `decoded(top, left)` (B, h, w, 3), asked once for each tile.

    Each tile takes over from the one above it, then from the one to its left, in linear ramps over what they share,
    as AutoencoderKL.tiled_decode has it. Besides the pictures, two rows of tiles are held.
    """
    pictures = np.empty(shape, np.float32)
    above: list[np.ndarray] = []
    for i, top in enumerate(tiles.tops):
        row: list[np.ndarray] = []
        for j, left in enumerate(tiles.lefts):
            tile = decoded(top, left).astype(np.float32, copy=False)
            if above:
                _fade(above[j], tile, 1, scale * (tiles.tops[i - 1] + tiles.size[0] - top))
            if row:
                _fade(row[-1], tile, 2, scale * (tiles.lefts[j - 1] + tiles.size[1] - left))
            row.append(tile)
            pictures[:, scale * top :, scale * left :][:, : tile.shape[1], : tile.shape[2]] = tile
        above = row
    return pictures


def _fade(before: np.ndarray, tile: np.ndarray, axis: int, shared: int) -> None:
    """Changes the first `shared` pixels of `tile` along `axis`: from the last ones of `before` over to its own."""
    if not shared:
        return
    ends, starts = np.moveaxis(before, axis, 0)[-shared:], np.moveaxis(tile, axis, 0)[:shared]
    ramp = (np.arange(shared, dtype=np.float32) / shared).reshape(-1, 1, 1, 1)
    starts[...] = ends * (1 - ramp) + starts * ramp
