"""An SD3 transformer of this package that computes with the weights of a diffusers model in memory."""

import copy

import torch
from torch import nn

from hsexport.families.sd3.conditioning import Conditioning
from hsexport.families.sd3.transformer import OuterTransformer, TokenTransformer
from hsexport.families.sd3.weights import centre_rows, token_weight


class LiveTransformer(nn.Module):
    """Conditioning network and denoiser one after the other, as a step of one noise level.

    With `outer` the denoiser answers what its middle blocks add, or, `light`, is without these.
    """

    def __init__(self, model, kept, *, takes_cache=False, outer=None, light=False):
        super().__init__()
        model = copy.deepcopy(model)  # which the denoiser takes apart
        self.conditioning = Conditioning(model)
        made = OuterTransformer(model, kept, outer) if light else None
        self.denoiser = made or TokenTransformer(model, kept, takes_cache=takes_cache, outer=outer)
        self.denoiser.patch_weight.copy_(torch.from_numpy(token_weight(model.pos_embed.proj.weight.numpy())))
        self.denoiser.position_table.copy_(torch.from_numpy(centre_rows(model.pos_embed.pos_embed.numpy(), kept)))

    def forward(self, tokens, positions, timestep, text, pooled, *past):
        """As the denoiser, from a noise level and prompts."""
        step = torch.zeros(1, dtype=torch.int32)
        return self.denoiser(tokens, positions, step, *self.conditioning(timestep, text, pooled), *past)

    def streams(self, tokens, positions, timestep, text, pooled, cache):
        """Image and text after the last block."""
        modulation, context = self.conditioning(timestep, text, pooled)
        steered = iter(modulation[0].split(self.denoiser.proj_out.in_features, dim=-1))
        return self.denoiser.streams(tokens, positions, context, steered, cache)


@torch.no_grad()
def live_transformer(model, kept, **form):
    """In evaluation mode; `model` stays as it is."""
    return LiveTransformer(model, kept, **form).eval()
