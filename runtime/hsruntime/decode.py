"""Latents, as the loop leaves them on the device, to pictures on the host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hsengines.backend import Device, Engine, Tensor
from hsruntime.buffers import LoopShape
from hsruntime.flow import latents_from_tokens
from hsruntime.manifest import Latent
from hsruntime.picture import picture_bytes


class Decoder:
    """The VAE bound to one loop's latents; made with a loop, used for each of its pictures."""

    def __init__(
        self, latent: Latent, engines: Mapping[str, Engine], device: Device, shape: LoopShape, tokens: Tensor
    ) -> None:
        unpatchify, vae = engines["unpatchify"], engines["vae_decoder"]
        order = token_order(latent, shape.grid)
        dims = {"B": shape.pictures, "h": order.shape[1], "w": order.shape[2]}
        spec = vae.spec.outputs[0]
        latents = device.empty((shape.pictures, *order.shape), "float32")
        self._pictures = device.empty(spec.resolve(dims), spec.dtype)
        self._bindings = [
            unpatchify.bind({"tokens": tokens, "order": device.upload(order)}, {"latents": latents}),
            vae.bind({"latents": latents}, {spec.name: self._pictures}),
        ]

    def decode(self) -> np.ndarray:
        """Pictures (B, H, W, 3) uint8."""
        for binding in self._bindings:
            binding.enqueue()
        return picture_bytes(self._pictures.read())

    def close(self) -> None:
        """Frees the bindings."""
        while self._bindings:
            self._bindings.pop().close()


def token_order(latent: Latent, grid: tuple[int, int]) -> np.ndarray:
    """Where each number of a picture's latents (C, h, w) lies among its tokens' N * P numbers, int32."""
    numbers = grid[0] * grid[1] * latent.token_width
    flat = np.arange(numbers, dtype=np.int32).reshape(1, -1, latent.token_width)
    return latents_from_tokens(flat, latent.patch_size, grid)[0]
