"""A TokenTransformer that computes with the weights of a diffusers model in memory."""

import torch

from hsexport.families.sd3.transformer import TokenTransformer
from hsexport.families.sd3.weights import centre_rows, token_weight


@torch.no_grad()
def live_transformer(model, kept, *, takes_cache):
    """In evaluation mode; layers are shared with `model`."""
    module = TokenTransformer(model, kept, takes_cache=takes_cache)
    module.patch_weight.copy_(torch.from_numpy(token_weight(model.pos_embed.proj.weight.numpy())))
    module.position_table.copy_(torch.from_numpy(centre_rows(model.pos_embed.pos_embed.numpy(), kept)))
    return module.eval()
