"""SD3Transformer2DModel over tokens: any subset of a picture's tokens, exact as long as the cache is complete."""

from __future__ import annotations

from diffusers import SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor, nn

from hsexport.mmdit.attention import KeyValue, flat, joint_attention, self_attention
from hsexport.mmdit.positions import centre_rows
from hsruntime.manifest import PositionTable


def token_weight(weight: Tensor) -> Tensor:
    """The patch embedding's convolution (width, C, p, p) as a matrix (width, P) over tokens laid out (p, q, C).

    diffusers reads a patch as (C, p, q) but writes it as (p, q, C); everything here uses the latter.
    """
    return weight.permute(0, 2, 3, 1).flatten(1).contiguous()


def feed_forward(block: nn.Module, norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """A modulated feed-forward with its residual."""
    return x + gate[:, None] * flat(block, norm(x) * (1 + scale[:, None]) + shift[:, None])


class TokenTransformer(nn.Module):
    """A transformer over tokens; shares its weights with the diffusers model it was made from.

    Inputs: tokens (G, M, P), positions (G, M) int32 rows of the kept table, timestep (1,), text (G, T, Dt),
    pooled (G, Dp), and, if it takes a cache, a key and a value (G, H, R, D) for each attention layer in turn.
    Outputs: velocity (G, M, P), and for a cache-taking one the active tokens' keys and values (G, H, M, D).
    """

    def __init__(self, model: SD3Transformer2DModel, kept: PositionTable, *, takes_cache: bool) -> None:
        super().__init__()
        self.takes_cache = takes_cache
        self.time_text_embed = model.time_text_embed
        self.context_embedder = model.context_embedder
        self.transformer_blocks = model.transformer_blocks
        self.norm_out = model.norm_out
        self.proj_out = model.proj_out
        self.patch_weight = nn.Parameter(token_weight(model.pos_embed.proj.weight.detach()))
        self.patch_bias = model.pos_embed.proj.bias
        self.register_buffer("position_table", centre_rows(model.pos_embed.pos_embed, kept))

    def forward(
        self, tokens: Tensor, positions: Tensor, timestep: Tensor, text: Tensor, pooled: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Velocity, then keys and values."""
        cache = [KeyValue(past[i], past[i + 1]) for i in range(0, len(past), 2)]
        x, _, presents, emb = self.streams(tokens, positions, timestep, text, pooled, cache)
        velocity = self.proj_out(self.norm_out(x, emb))
        return (velocity, *(t for kv in presents for t in kv)) if self.takes_cache else (velocity,)

    def streams(
        self, tokens: Tensor, positions: Tensor, timestep: Tensor, text: Tensor, pooled: Tensor, cache: list[KeyValue]
    ) -> tuple[Tensor, Tensor, list[KeyValue], Tensor]:
        """Image and text streams after the last block, all keys and values, and the conditioning embedding."""
        place = self.position_table.index_select(0, positions.flatten()).unflatten(0, positions.shape)
        x = nn.functional.linear(tokens, self.patch_weight, self.patch_bias) + place
        emb = self.time_text_embed(timestep, pooled)
        text = self.context_embedder(text)
        presents: list[KeyValue] = []
        for block in self.transformer_blocks:
            x, text = run_block(block, x, text, emb, cache, presents)
        return x, text, presents, emb


def run_block(
    block: JointTransformerBlock, x: Tensor, text: Tensor, emb: Tensor, cache: list[KeyValue], presents: list[KeyValue]
) -> tuple[Tensor, Tensor]:
    """One block over the active tokens; appends its layers' keys and values to `presents`."""
    normed2, gate2 = None, None
    if block.use_dual_attention:
        normed, gate, shift, scale, ff_gate, normed2, gate2 = block.norm1(x, emb=emb)
    else:
        normed, gate, shift, scale, ff_gate = block.norm1(x, emb=emb)
    text_modulation: tuple[Tensor, ...] = ()
    if block.context_pre_only:
        text_normed = block.norm1_context(text, emb)
    else:
        text_normed, *text_modulation = block.norm1_context(text, emb=emb)

    out, text_out, present = joint_attention(block.attn, normed, text_normed, _slot(cache, presents))
    presents.append(present)
    x = x + gate[:, None] * out
    if normed2 is not None and gate2 is not None:
        out, present = self_attention(block.attn2, normed2, _slot(cache, presents))
        presents.append(present)
        x = x + gate2[:, None] * out
    x = feed_forward(block.ff, block.norm2, x, shift, scale, ff_gate)

    if text_out is not None:
        text_gate, text_shift, text_scale, text_ff_gate = text_modulation
        text = text + text_gate[:, None] * text_out
        text = feed_forward(block.ff_context, block.norm2_context, text, text_shift, text_scale, text_ff_gate)
    return x, text


def _slot(cache: list[KeyValue], presents: list[KeyValue]) -> list[KeyValue]:
    """The cached tokens' keys and values of the layer that comes next; empty without a cache."""
    return [cache[len(presents)]] if cache else []
