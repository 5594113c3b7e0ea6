"""The two halves of a VAE as every family's bundle has them; what its latents are, the family says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """Pictures by token (B, h, w, s * s * 3), float 0..1, to latents (B, h, w, C) as the loop takes them.

    The numbers of one are its square of s pixels, line by line, so that every extent is a symbol of its own. `vae` is
    one of diffusers' autoencoders, of which the encoder's layers are taken.
    """

    def __init__(self, vae: Any, side: int) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.side = side
        self.channels = int(vae.config.latent_channels)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """The mode of the posterior; 0..1 becomes -1..1 first, as in VaeImageProcessor."""
        squares = pixels.unflatten(-1, (self.side, self.side, 3)).permute(0, 5, 1, 3, 2, 4)
        moments = self.encoder(squares.flatten(4, 5).flatten(2, 3) * 2 - 1)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return (self.taken(moments[:, : self.channels]).permute(0, 2, 3, 1),)

    @abstractmethod
    def taken(self, mode: Tensor) -> Tensor:
        """What the loop takes of the posterior's mode."""


class Decoder(nn.Module, ABC):
    """Latents (B, C, h, w) as the loop leaves them to pictures (B, H, W, 3), float 0..1."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        """Decodes, maps -1..1 to 0..1 and clamps, as VaeImageProcessor does."""
        z = self.given(latents)
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        return ((self.decoder(z) * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1),)

    @abstractmethod
    def given(self, latents: Tensor) -> Tensor:
        """What the decoder is given of the loop's latents."""
