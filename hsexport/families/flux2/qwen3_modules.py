"""Qwen3 as FLUX.2's pipelines read prompts by it: the states behind some of its layers, and no layer after them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsexport.families.flux2.parts import TAKEN, Qwen3Shape

HIDDEN = -30000.0
"""What a score that must not count is lowered by; fp16 holds it."""


class Qwen3Encoder(nn.Module):
    """Ids (B, L) to the states (B, L, width) behind each of the layers that are taken.

    Source: Qwen3Model, modeling_qwen3.py. Padding stands behind the prompt, and nobody looks at it; what it itself
    comes to, the transformers look at all the same, as in the pipeline.
    """

    def __init__(self, shape: Qwen3Shape, length: int, pad_id: int) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(max(TAKEN)))
        with torch.device("cpu"):  # whatever holds the weights: these are no weights
            places = torch.arange(length)
            frequencies = 1.0 / shape.rope_theta ** (torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
            angles = torch.outer(places.float(), frequencies)
            self.register_buffer("turns", torch.stack([angles.cos(), angles.sin()])[:, None, :, None], persistent=False)
            self.register_buffer("places", places + 1, persistent=False)
            self.register_buffer("earlier", places[:, None] >= places, persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        """One answer for each of TAKEN."""
        end = ((ids != self.pad_id) * self.places).amax(1, keepdim=True)
        seen = self.earlier & (self.places <= end)[:, None]
        hidden = ((~seen).float() * HIDDEN)[:, None]
        x, answers = self.embed_tokens(ids), []
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, self.turns, hidden)
            if number in TAKEN:
                answers.append(x)
        return tuple(answers)


class Layer(nn.Module):
    """Attention with fewer keys than queries, then a gated feed-forward; each after a norm, each added."""

    def __init__(self, shape: Qwen3Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape.hidden_size, shape.intermediate_size)

    def forward(self, x: Tensor, turns: Tensor, hidden: Tensor) -> Tensor:
        """(B, L, width); `hidden` (B, 1, L, L) is added to scores."""
        x = x + self.self_attn(self.input_layernorm(x), turns, hidden)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Grouped: each key serves several queries."""

    def __init__(self, shape: Qwen3Shape) -> None:
        super().__init__()
        size, self.heads, self.keys = shape.head_dim, shape.num_attention_heads, shape.num_key_value_heads
        self.q_proj = nn.Linear(shape.hidden_size, self.heads * size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, self.keys * size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, self.keys * size, bias=False)
        self.o_proj = nn.Linear(self.heads * size, shape.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(size, shape.rms_norm_eps)
        self.k_norm = nn.RMSNorm(size, shape.rms_norm_eps)

    def forward(self, x: Tensor, turns: Tensor, hidden: Tensor) -> Tensor:
        """Written out: the fused one's strides trip torch.export's decomposition, and it runs once a prompt."""
        query = turned(self.q_norm(self.q_proj(x).unflatten(-1, (self.heads, -1))), turns)
        key = turned(self.k_norm(self.k_proj(x).unflatten(-1, (self.keys, -1))), turns)
        value = self.v_proj(x).unflatten(-1, (self.keys, -1))
        query, key, value = (
            t.repeat_interleave(self.heads // t.shape[2], dim=2).transpose(1, 2) for t in (query, key, value)
        )
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + hidden
        return self.o_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, width)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Heads (B, L, H, D) turned by cosines and sines (2, 1, L, 1, D / 2), a half of each head with the other."""
    (cos, sin), (a, b) = turns.unbind(0), x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class JoinText(nn.Module):
    """States (B, L, width) behind each layer, side by side: text (B, L, 3 * width)."""

    def forward(self, *states: Tensor) -> tuple[Tensor]:
        """Source: Flux2KleinPipeline._get_qwen3_prompt_embeds."""
        return (torch.cat(states, dim=-1),)
