"""Diffusers' own model of a member, to set ours beside: the same weights, from whatever layout they lie in."""

from __future__ import annotations

import torch
from accelerate import init_empty_weights
from diffusers import SD3Transformer2DModel

from hsexport.checkpoints.weights import Stored
from hsexport.checkpoints.weights.streamed import tensor_of
from hsexport.families.pair import Member
from hsexport.families.sd3.transformer import transformer_like


def original_of(member: Member, dtype: torch.dtype = torch.float32) -> SD3Transformer2DModel:
    """As `from_pretrained` loads it. Raises PairError for weights in a type that no network has."""
    with init_empty_weights(include_buffers=True):
        model = transformer_like(member.config)
    weights = {name: tensor_of(Stored(header).read(), dtype) for name, header in member.tensors.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()
