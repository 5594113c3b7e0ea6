"""What a FLUX.2 transformer's steps take of prompts and noise levels: a network of its own, run once a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel
from torch import Tensor, nn

from hsexport.families.shared.blocks import flat, steering


class Conditioning(nn.Module):
    """For all steps at once, made of a diffusers model's layers.

    Inputs: timesteps (S,), text (G, T, Dt). Outputs: modulation (S, 1, 17 * width), 1 added to every scale; context
    (G, T, width), the text stream that the first block reads.
    """

    def __init__(self, model: Flux2Transformer2DModel) -> None:
        super().__init__()
        self.time_guidance_embed = model.time_guidance_embed
        self.double_stream_modulation_img = model.double_stream_modulation_img
        self.double_stream_modulation_txt = model.double_stream_modulation_txt
        self.single_stream_modulation = model.single_stream_modulation
        self.context_embedder = model.context_embedder
        self.norm_out = nn.Module()
        self.norm_out.linear = model.norm_out.linear

    def forward(self, timesteps: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Modulation, then context."""
        embed = self.time_guidance_embed
        emb = F.silu(embed.timestep_embedder(embed.time_proj(timesteps)))
        parts: list[Tensor] = []
        for each in (
            self.double_stream_modulation_img,
            self.double_stream_modulation_txt,
            self.single_stream_modulation,
        ):
            parts += steering(each.linear, emb)
        parts += steering(self.norm_out.linear, emb, scale_first=True)
        return torch.cat(parts, dim=-1).unsqueeze(1), flat(self.context_embedder, text)
