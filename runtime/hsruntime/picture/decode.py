"""Latents, as the loop leaves them on the device, to pictures on the host, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hsengines.backend import Engine
from hsengines.device import Device, Tensor
from hsengines.errors import HSError, ShapeError
from hsruntime.bundle.manifest import Manifest
from hsruntime.facts import Latent
from hsruntime.loop.buffers import LoopShape
from hsruntime.loop.flow import latents_from_tokens

OVERLAP_PARTS = 4
"""Neighbours share a quarter of their side, as AutoencoderKL's tile_overlap_factor has it."""

Tiles = tuple[tuple[int, int], tuple[int, ...], tuple[int, ...]]
"""Tiles of one size (h, w) that cover latents: the size, where they start from above, and from the left."""


class Decoder:
    """The VAE bound to one tile of a loop's latents; made with a loop, used for each tile of each of its pictures.

    `tile` counts latents along a tile's side. Without it, or where the picture is no larger, the whole picture is the
    one tile. Tiles stay on the device until they are decoded: `unpatchify` gathers them from the loop's tokens.
    """

    def __init__(
        self,
        latent: Latent,
        engines: Mapping[str, Engine],
        device: Device,
        shape: LoopShape,
        tokens: Tensor,
        tile: int | None = None,
    ) -> None:
        unpatchify, vae = engines["unpatchify"], engines["vae_decoder"]
        self._scale = latent.vae_scale
        self._whole_order = token_order(latent, shape.grid)
        channels, *extents = self._whole_order.shape
        self._tiles = tiles_over((extents[0], extents[1]), tile)
        h, w = self._tiles[0]
        spec = vae.spec.outputs[0]
        latents = device.empty((shape.pictures, channels, h, w), "float32")
        self._shape = spec.resolve({"B": shape.pictures, "h": extents[0], "w": extents[1]})
        self._order = device.empty((channels, h, w), "int32")
        self._pictures = device.empty(spec.resolve({"B": shape.pictures, "h": h, "w": w}), spec.dtype)
        self._bindings = [
            unpatchify.bind({"tokens": tokens, "order": self._order}, {"latents": latents}),
            vae.bind({"latents": latents}, {spec.name: self._pictures}),
        ]

    def decode(self) -> np.ndarray:
        """Pictures (B, H, W, 3) uint8. Raises HSError for what is no number, which would pass for black."""
        decoded = assembled(self._tiles, self._scale, self._shape, self._decoded)
        return picture_bytes(finite("the decoded pictures", decoded))

    def close(self) -> None:
        """Frees the bindings."""
        while self._bindings:
            self._bindings.pop().close()

    def _decoded(self, top: int, left: int) -> np.ndarray:
        """The tile (B, h, w, 3) whose first latent lies there."""
        h, w = self._tiles[0]
        self._order.write(np.ascontiguousarray(self._whole_order[:, top : top + h, left : left + w]))
        for binding in self._bindings:
            binding.enqueue()
        return self._pictures.read()


def token_order(latent: Latent, grid: tuple[int, int]) -> np.ndarray:
    """Where each number of a picture's latents (C, h, w) lies among its tokens' N * P numbers, int32."""
    numbers = grid[0] * grid[1] * latent.token_width
    flat = np.arange(numbers, dtype=np.int32).reshape(1, -1, latent.token_width)
    return latents_from_tokens(flat, latent.patch_size, grid)[0]


def finite(subject: str, array: np.ndarray) -> np.ndarray:
    """The array itself. Raises HSError where it holds what is no number."""
    if np.isfinite(array).all():
        return array
    raise HSError(
        f"{subject} hold numbers that are not finite",
        "ask for less guidance or another schedule; if every picture is so, verify the bundle and build it wider",
    )


def picture_bytes(decoded: np.ndarray) -> np.ndarray:
    """Floats in 0..1 (B, H, W, 3) as uint8, rounded as diffusers' VaeImageProcessor rounds."""
    return (decoded * 255).round().astype(np.uint8)


def tile_side(manifest: Manifest, pixels: int | None) -> int | None:
    """Latents along a tile's side; None for pictures decoded whole. Raises ShapeError for what no tile can be."""
    if not pixels:
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
    return (h, w), _starts(extents[0], h), _starts(extents[1], w)


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
    size, tops, lefts = tiles
    pictures = np.empty(shape, np.float32)
    above: list[np.ndarray] = []
    for i, top in enumerate(tops):
        row: list[np.ndarray] = []
        for j, left in enumerate(lefts):
            tile = decoded(top, left).astype(np.float32, copy=False)
            if above:
                _fade(above[j], tile, 1, scale * (tops[i - 1] + size[0] - top))
            if row:
                _fade(row[-1], tile, 2, scale * (lefts[j - 1] + size[1] - left))
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
