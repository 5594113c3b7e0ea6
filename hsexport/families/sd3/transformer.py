"""SD3Transformer2DModel over tokens: any subset of a picture's tokens, exact as long as the cache is complete.

What follows from prompts and noise levels alone is `hsexport.families.sd3.conditioning`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from hsexport.checkpoints.weights.streamed import filled
from hsexport.families.pair import Member
from hsexport.families.sd3.config import TransformerConfig
from hsexport.families.shared.blocks import (
    Added,
    Cache,
    KeyValue,
    Modulation,
    attended,
    feed_forward,
    flat,
    joined,
    project,
)
from hsexport.families.shared.counts import middle_of
from hsruntime.facts import Positions


def transformer_like(config: TransformerConfig) -> SD3Transformer2DModel:
    """Diffusers' model of a configuration, its weights as its constructor draws them."""
    return SD3Transformer2DModel(**asdict(config))


def original_of(member: Member, dtype: torch.dtype = torch.float32) -> SD3Transformer2DModel:
    """Diffusers' own model of a member, from whatever layout. Raises PairError for weights in a type of no network."""
    return filled(lambda: transformer_like(member.config), member.tensors, dtype)


def image_key_value(attention: Attention, x: Tensor) -> KeyValue:
    """Keys and values of the active tokens: what a cache keeps of a layer."""
    key = project(x, attention.to_k, attention.norm_k, attention.heads)
    return KeyValue(key, project(x, attention.to_v, None, attention.heads))


def text_key_value(attention: Attention, text: Tensor) -> KeyValue:
    """Keys and values of the text tokens."""
    key = project(text, attention.add_k_proj, attention.norm_added_k, attention.heads)
    return KeyValue(key, project(text, attention.add_v_proj, None, attention.heads))


def self_attention(attention: Attention, x: Tensor, past: list[KeyValue]) -> tuple[Tensor, KeyValue]:
    """SD3.5-Medium's second attention: image tokens among themselves."""
    query = project(x, attention.to_q, attention.norm_q, attention.heads)
    present = image_key_value(attention, x)
    everything = joined([present, *past]) if past else present
    return flat(attention.to_out[0], attended(query, everything)), present


def joint_attention(
    attention: Attention, x: Tensor, text: Tensor, past: list[KeyValue]
) -> tuple[Tensor, Tensor | None, KeyValue, KeyValue]:
    """Active and live text tokens attend to these and to the cached ones in `past`.

    Returns the image part (G, M, width), the text part (G, T, width) or None in the last layer, whose text output
    nobody reads, and the keys and values of the active tokens and of the text.
    """
    active = x.shape[1]
    query = project(x, attention.to_q, attention.norm_q, attention.heads)
    present, present_text = image_key_value(attention, x), text_key_value(attention, text)
    everything = joined([present, *past, present_text])
    if attention.context_pre_only:
        return flat(attention.to_out[0], attended(query, everything)), None, present, present_text
    text_query = project(text, attention.add_q_proj, attention.norm_added_q, attention.heads)
    out = attended(torch.cat([query, text_query], dim=1), everything)
    image_out = flat(attention.to_out[0], out[:, :active])
    return image_out, flat(attention.to_add_out, out[:, active:]), present, present_text


class TokenTransformer(nn.Module):
    """A step of a transformer over tokens, made of a diffusers model's layers, which it takes apart.

    `patch_weight` and `position_table` are left empty: hsexport.families.sd3.weights makes them of the model's own.

    Inputs: tokens (G, M, P), positions (G, M) int32 rows of the kept table, step (1,) int32, modulation
    (S, G, 1, C * width) and context (G, T, width) as Conditioning answers them, and, if it takes a cache, a key and a
    value (G, R, H, D) for each attention layer in turn and a key and a value (G, U, H, D) of cached text for each joint
    one. Outputs: velocity (G, M, P), and for a cache-taking one the keys and values of the active tokens (G, M, H, D)
    and of the text (G, T, H, D), in the same order.

    With `outer`, how many blocks lie in front of the middle ones and behind them, it answers last what these add to
    both streams: (G, M, width) and (G, T, width).
    """

    def __init__(
        self,
        model: SD3Transformer2DModel,
        kept: Positions,
        *,
        takes_cache: bool = False,
        outer: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.takes_cache = takes_cache
        self.middle = middle_of(len(model.transformer_blocks), outer)
        self.added = Added()
        self.transformer_blocks = model.transformer_blocks
        self.norm_out = model.norm_out
        for block in self.transformer_blocks:
            del block.norm1.linear, block.norm1_context.linear
        del self.norm_out.linear
        self.proj_out = model.proj_out
        width, tokens = self.proj_out.in_features, self.proj_out.out_features  # a token goes out as it came in
        self.patch_weight = nn.Parameter(torch.empty(width, tokens))
        self.patch_bias = model.pos_embed.proj.bias
        self.register_buffer("position_table", torch.empty(kept.rows * kept.columns, width))

    def forward(
        self, tokens: Tensor, positions: Tensor, step: Tensor, modulation: Tensor, context: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Velocity, then keys and values."""
        pairs = [KeyValue(past[i], past[i + 1]) for i in range(0, len(past), 2)]
        of_text = len(pairs) - len(self.transformer_blocks)  # the last slots, one for each block
        cache = Cache(pairs[:of_text], pairs[of_text:]) if pairs else Cache([], [])
        steered = self.steered(modulation, step)
        x, _ = self.streams(tokens, positions, context, iter(steered[:-2]), cache)
        velocity = self.velocity(x, *steered[-2:])
        kept = [*cache.presents, *cache.presents_text] if self.takes_cache else []
        return (velocity, *(t for kv in kept for t in kv), *cache.residual)

    def streams(
        self, tokens: Tensor, positions: Tensor, text: Tensor, steered: Iterator[Tensor], cache: Cache
    ) -> tuple[Tensor, Tensor]:
        """Image and text streams after the last block, steered by what comes; fills the cache."""
        x, before = self.embedded(tokens, positions), []
        for number, block in enumerate(self.transformer_blocks):
            if number == self.middle.start:
                before = [x, text]
            x, text = run_block(block, x, text, steered, cache)
            if number + 1 == self.middle.stop:
                cache.residual = [self.added(after, stream) for after, stream in zip((x, text), before, strict=True)]
        return x, text

    def embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The image stream (G, M, width) that the first block reads."""
        place = self.position_table.index_select(0, positions.flatten()).unflatten(0, positions.shape)
        return F.linear(tokens, self.patch_weight, self.patch_bias) + place

    def steered(self, modulation: Tensor, step: Tensor) -> Sequence[Tensor]:
        """The step's shifts, scales and gates, each (G, 1, width)."""
        return modulation.index_select(0, step).squeeze(0).split(self.proj_out.in_features, dim=-1)

    def velocity(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """(G, M, P) of the image stream behind the last block."""
        return self.proj_out(self.norm_out.norm(x) * scale + shift)


class OuterTransformer(TokenTransformer):
    """Its outer blocks alone: what the middle ones add is taken from an earlier step (DBCache, Delta-DiT).

    Inputs: as TokenTransformer without a cache, then what it answered last. Output: velocity (G, N, P).
    """

    def __init__(self, model: SD3Transformer2DModel, kept: Positions, outer: tuple[int, int]) -> None:
        counts = [block_chunks(block) for block in model.transformer_blocks]
        super().__init__(model, kept, outer=outer)
        for number in self.middle:
            self.transformer_blocks[number] = nn.Identity()
        self.left_out = slice(sum(counts[: self.middle.start]), sum(counts[: self.middle.stop]))

    def forward(
        self, tokens: Tensor, positions: Tensor, step: Tensor, modulation: Tensor, context: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Velocity; `past` is the residual of both streams."""
        steered = [*self.steered(modulation, step)]
        del steered[self.left_out]
        x, text, following = self.embedded(tokens, positions), context, iter(steered[:-2])
        for number, block in enumerate(self.transformer_blocks):
            if number == self.middle.start:
                x, text = x + past[0], text + past[1]
            if number not in self.middle:
                x, text = run_block(block, x, text, following, Cache([], []))
        return (self.velocity(x, *steered[-2:]),)


def block_chunks(block: JointTransformerBlock) -> int:
    """How many shifts, scales and gates a block of diffusers' takes."""
    widths = (norm.linear.out_features / norm.linear.in_features for norm in (block.norm1, block.norm1_context))
    return int(sum(widths))


def run_block(
    block: JointTransformerBlock, x: Tensor, text: Tensor, steered: Iterator[Tensor], cache: Cache
) -> tuple[Tensor, Tensor]:
    """One block over the active tokens; appends its layers' keys and values to the cache's presents."""

    def following() -> Modulation:
        return Modulation(next(steered), next(steered), next(steered))

    attention, image_forward = following(), following()
    dual = following() if block.use_dual_attention else None
    shift, scale = next(steered), next(steered)
    text_normed = block.norm1_context.norm(text) * scale + shift

    normed = attention.normed(block.norm1.norm, x)
    second = dual.normed(block.norm1.norm, x) if dual else None
    out, text_out, present, present_text = joint_attention(block.attn, normed, text_normed, cache.everything())
    cache.presents.append(present)
    cache.presents_text.append(present_text)
    x = attention.residual(x, out)
    if dual and second is not None:
        out, present = self_attention(block.attn2, second, cache.image())
        cache.presents.append(present)
        x = dual.residual(x, out)
    x = feed_forward(block.ff, block.norm2, x, image_forward)

    if text_out is not None:  # the last block's text is read by nobody
        text = text + next(steered) * text_out
        text = feed_forward(block.ff_context, block.norm2_context, text, following())
    return x, text
