"""Text encoders and VAE decoder, wrapped to the tensors StableDiffusion3Pipeline takes from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel


class ClipEncoder(nn.Module):
    """Ids (B, L) to the last layer but one's states (B, L, width) and the projected end token (B, projection)."""

    def __init__(self, model: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Causal attention only: the pipeline passes no padding mask, so neither does this."""
        out = self.model(ids, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds


class T5Encoder(nn.Module):
    """Ids (B, L) to states (B, L, width)."""

    def __init__(self, model: T5EncoderModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        """Without a mask, as the pipeline."""
        return (self.model(ids)[0],)


class JoinText(nn.Module):
    """Joins the three encoders' answers into text (B, T, Dt) and pooled (B, Dp).

    Source: StableDiffusion3Pipeline.encode_prompt: CLIPs side by side, padded to T5's width, then T5 behind them.
    """

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.text_width = text_width

    def forward(
        self, states_1: Tensor, pooled_1: Tensor, states_2: Tensor, pooled_2: Tensor, states_3: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States (B, L, width) and pooled (B, projection) of the CLIPs, states of T5."""
        clip = torch.cat([states_1, states_2], dim=-1)
        clip = F.pad(clip, (0, self.text_width - clip.shape[-1]))
        return torch.cat([clip, states_3], dim=1), torch.cat([pooled_1, pooled_2], dim=-1)


class VaeEncoder(nn.Module):
    """Pictures by latent (B, h, w, s * s * 3), float 0..1, to latents (B, h, w, C) as the loop takes them.

    The numbers of a latent are its square of s pixels, line by line, so that every extent is a symbol of its own.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.side = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = int(vae.config.latent_channels)
        self.scaling_factor = float(vae.config.scaling_factor)
        self.shift_factor = float(vae.config.shift_factor or 0.0)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """The mode of the posterior, scaled; 0..1 becomes -1..1 first, as in VaeImageProcessor."""
        squares = pixels.unflatten(-1, (self.side, self.side, 3)).permute(0, 5, 1, 3, 2, 4)
        moments = self.encoder(squares.flatten(4, 5).flatten(2, 3) * 2 - 1)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mode = (moments[:, : self.channels] - self.shift_factor) * self.scaling_factor
        return (mode.permute(0, 2, 3, 1),)


class VaeDecoder(nn.Module):
    """Latents (B, C, h, w) as the loop leaves them to pictures (B, H, W, 3), float 0..1."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder
        self.scaling_factor = float(vae.config.scaling_factor)
        self.shift_factor = float(vae.config.shift_factor or 0.0)

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        """Unscales, decodes, maps -1..1 to 0..1 and clips, as VaeImageProcessor does."""
        z = latents / self.scaling_factor + self.shift_factor
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        return ((self.decoder(z) * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1),)
