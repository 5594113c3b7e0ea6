"""Pictures on the host to latents on the host, tile by tile."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from hsengines.backend import Engine
from hsengines.device import Device
from hsruntime.facts import Latent
from hsruntime.picture.decode import assembled, finite, tiles_over


def encoded(pixels: np.ndarray, engine: Engine, device: Device, latent: Latent, tile: int | None) -> np.ndarray:
    """Latents (1, C, h, w) float32 of a picture (H, W, 3) uint8, whose sides are multiples of a latent's.

    `tile` counts latents along a tile's side, as for decoding. Raises HSError for what is no number.
    """
    scale = latent.vae_scale
    h, w = (side // scale for side in pixels.shape[:2])
    tiles = tiles_over((h, w), tile)
    rows, columns = tiles[0]
    taken = device.empty((1, rows, columns, scale * scale * 3), "float32")
    made = device.empty((1, rows, columns, latent.channels), "float32")
    squares = pixels.reshape(h, scale, w, scale, 3).transpose(0, 2, 1, 3, 4).reshape(1, h, w, -1)
    with closing(engine.bind({"pixels": taken}, {"latents": made})) as binding:

        def one(top: int, left: int) -> np.ndarray:
            part = squares[:, top : top + rows, left : left + columns]
            taken.write(np.ascontiguousarray(part, np.float32) / np.float32(255))
            binding.enqueue()
            return made.read()

        latents = assembled(tiles, 1, (1, h, w, latent.channels), one)
    return finite("the picture's latents", latents).transpose(0, 3, 1, 2)
