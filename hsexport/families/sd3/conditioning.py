"""What an SD3 transformer's steps take of prompts and noise levels: a network of its own, run once a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from hsexport.families.shared.blocks import flat, steering

NORMS = ("norm1", "norm1_context")


class Conditioning(nn.Module):
    """For all steps at once, made of a diffusers model's layers.

    Inputs: timesteps (S,), text (G, T, Dt), pooled (G, Dp). Outputs: modulation (S, G, 1, C * width), the C shifts,
    scales and gates of all blocks as TokenTransformer takes them one after the other; context (G, T, width), the text
    stream that the first block reads.
    """

    def __init__(self, model: SD3Transformer2DModel) -> None:
        super().__init__()
        self.time_text_embed = model.time_text_embed
        self.context_embedder = model.context_embedder
        self.transformer_blocks = nn.ModuleList(Linears(block) for block in model.transformer_blocks)
        self.norm_out = nn.Module()
        self.norm_out.linear = model.norm_out.linear

    def forward(self, timesteps: Tensor, text: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Modulation, then context."""
        embed, last = self.time_text_embed, self.transformer_blocks[-1]
        of_time = embed.timestep_embedder(embed.time_proj(timesteps))
        emb = F.silu(of_time[:, None] + embed.text_embedder(pooled)).flatten(0, 1)
        parts: list[Tensor] = []
        for block in self.transformer_blocks:
            parts += steering(block.norm1.linear, emb)
            parts += steering(block.norm1_context.linear, emb, scale_first=block is last)
        parts += steering(self.norm_out.linear, emb, scale_first=True)
        modulation = torch.cat(parts, dim=-1).view(timesteps.shape[0], pooled.shape[0], 1, -1)
        return modulation, flat(self.context_embedder, text)


class Linears(nn.Module):
    """Those of a block's norms, by the names that they have there."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name in NORMS:
            self.add_module(name, nn.Module())
            getattr(self, name).linear = getattr(block, name).linear
