"""Latents, as the loop leaves them on the device, to pictures on the host, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hsengines.backend import Engine
from hsengines.device import Device, Tensor
from hsruntime.facts import Latent
from hsruntime.loop.buffers import LoopShape
from hsruntime.loop.flow import latents_from_tokens
from hsruntime.picture.picture import picture_bytes
from hsruntime.picture.tiles import assembled, tiles_over


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
        h, w = self._tiles.size
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
        """Pictures (B, H, W, 3) uint8."""
        return picture_bytes(assembled(self._tiles, self._scale, self._shape, self._decoded))

    def close(self) -> None:
        """Frees the bindings."""
        while self._bindings:
            self._bindings.pop().close()

    def _decoded(self, top: int, left: int) -> np.ndarray:
        """The tile (B, h, w, 3) whose first latent lies there."""
        h, w = self._tiles.size
        self._order.write(np.ascontiguousarray(self._whole_order[:, top : top + h, left : left + w]))
        for binding in self._bindings:
            binding.enqueue()
        return self._pictures.read()


def token_order(latent: Latent, grid: tuple[int, int]) -> np.ndarray:
    """Where each number of a picture's latents (C, h, w) lies among its tokens' N * P numbers, int32."""
    numbers = grid[0] * grid[1] * latent.token_width
    flat = np.arange(numbers, dtype=np.int32).reshape(1, -1, latent.token_width)
    return latents_from_tokens(flat, latent.patch_size, grid)[0]
