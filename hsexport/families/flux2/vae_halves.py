"""AutoencoderKLFlux2's halves between pictures and the latents that the pipeline denoises: 2x2 patches, normalised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn

from hsexport.families.flux2.parts import PATCH
from hsexport.families.shared.vae_modules import Decoder, Encoder


class Statistics(nn.Module):
    """Mean and variance of a patch's numbers (C * 4,), in which channels are outermost."""

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__()
        self.eps = float(vae.config.batch_norm_eps)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(PATCH * PATCH * vae.config.latent_channels))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each (C * 4, 1, 1)."""
        deviation = torch.sqrt(self.running_var + self.eps)
        return self.running_mean[:, None, None], deviation[:, None, None]


class VaeEncoder(Encoder):
    """To patches (B, C * 4, h, w) of the posterior's mode, normalised."""

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__(vae, PATCH * 2 ** (len(vae.config.block_out_channels) - 1))
        self.bn = Statistics(vae)

    def taken(self, mode: Tensor) -> Tensor:
        """As Flux2KleinPipeline._encode_vae_image takes it."""
        mean, deviation = self.bn()
        return (F.pixel_unshuffle(mode, PATCH) - mean) / deviation


class VaeDecoder(Decoder):
    """From patches (B, C * 4, h, w), normalised."""

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__(vae)
        self.bn = Statistics(vae)

    def given(self, latents: Tensor) -> Tensor:
        """As Flux2KleinPipeline gives it."""
        mean, deviation = self.bn()
        return F.pixel_shuffle(latents * deviation + mean, PATCH)
