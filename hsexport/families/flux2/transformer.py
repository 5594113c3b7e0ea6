"""Flux2Transformer2DModel over tokens: any subset of a picture's tokens, exact as long as the cache is complete.

What follows from prompts and noise levels alone is `hsexport.families.flux2.conditioning`'s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor, nn

from hsexport.checkpoints.weights.streamed import filled
from hsexport.families.flux2.config import TransformerConfig
from hsexport.families.flux2.rotary import Turned, image_turns, text_turns
from hsexport.families.pair import Member
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


def transformer_like(config: TransformerConfig) -> Flux2Transformer2DModel:
    """Diffusers' model of a configuration, its weights as its constructor draws them."""
    return Flux2Transformer2DModel(**config.diffusers())


def original_of(member: Member, dtype: torch.dtype = torch.float32) -> Flux2Transformer2DModel:
    """Diffusers' own model of a member, from whatever layout. Raises PairError for weights in a type of no network."""
    return filled(lambda: transformer_like(member.config), member.tensors, dtype)


class Streams:
    """Image and text, apart for joint blocks or one behind the other for single-stream ones; changed when asked."""

    def __init__(self, image: Tensor, text: Tensor, whole: Tensor | None = None) -> None:
        self._image, self._text, self._whole = image, text, whole

    def joined(self) -> Tensor:
        """(G, M + T, width), image first."""
        return torch.cat([self._image, self._text], dim=1) if self._whole is None else self._whole

    def after(self, whole: Tensor) -> Streams:
        """What a single-stream block made of them."""
        return Streams(self._image, self._text, whole)

    def apart(self) -> tuple[Tensor, Tensor]:
        """(G, M, width) and (G, T, width)."""
        if self._whole is None:
            return self._image, self._text
        active = self._image.shape[1]
        return self._whole[:, :active], self._whole[:, active:]


class Places(NamedTuple):
    """What image tokens (G, M, D) and text tokens (G, T, D) are turned by."""

    image: Tensor
    text: Tensor


class TokenTransformer(nn.Module):
    """A step of a transformer over tokens, made of a diffusers model's layers, which it takes apart.

    `text` is how many text tokens it may be given, `references` how many pictures beside the one that is drawn, whose
    tokens are tokens like any others. Inputs: tokens (G, M, P), positions (G, M) int32 rows of the kept table, step
    (1,) int32, modulation (S, 1, 17 * width) and context (G, T, width) as Conditioning answers them, and, if it takes a
    cache, a key and a value (G, R, H, D) for each block in turn, joint ones first, then a key and a value (G, U, H, D)
    of cached text for each. Outputs: velocity (G, M, P), and for a cache-taking one the keys, turned, and values of the
    active tokens (G, M, H, D) and of the text (G, T, H, D), in the same order.

    With `outer`, how many blocks lie in front of the middle ones and behind them, it answers last what these add to
    both streams, (G, M, width) and (G, T, width). A `light` one is without them, and takes that in place of a cache.
    """

    def __init__(
        self,
        model: Flux2Transformer2DModel,
        kept: Positions,
        text: int,
        *,
        takes_cache: bool = False,
        references: int = 0,
        outer: tuple[int, int] | None = None,
        light: bool = False,
    ) -> None:
        super().__init__()
        self.takes_cache, self.light = takes_cache, light
        self.x_embedder = model.x_embedder
        self.transformer_blocks = model.transformer_blocks
        self.single_transformer_blocks = model.single_transformer_blocks
        self.middle = middle_of(len(self.transformer_blocks) + len(self.single_transformer_blocks), outer)
        for number in self.middle if light else ():
            blocks, place = self.place(number)
            blocks[place] = nn.Identity()
        self.norm_out = model.norm_out
        del self.norm_out.linear
        self.proj_out = model.proj_out
        self.turned, self.added = Turned(), Added()
        axes, theta = model.config.axes_dims_rope, model.config.rope_theta
        with torch.device("cpu"):  # whatever holds the weights: these are no weights
            self.register_buffer("image_turns", image_turns(kept, references, axes, theta), persistent=False)
            self.register_buffer("text_turns", text_turns(text, axes, theta), persistent=False)

    def place(self, number: int) -> tuple[nn.ModuleList, int]:
        """The list that a block lies in, and its place there."""
        behind = number - len(self.transformer_blocks)
        return (self.transformer_blocks, number) if behind < 0 else (self.single_transformer_blocks, behind)

    def forward(
        self, tokens: Tensor, positions: Tensor, step: Tensor, modulation: Tensor, context: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Velocity, then keys and values, then what the middle blocks added."""
        pairs = [] if self.light else [KeyValue(past[i], past[i + 1]) for i in range(0, len(past), 2)]
        cache = Cache(pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :], residual=list(past) if self.light else [])
        steered = modulation.index_select(0, step).split(self.proj_out.in_features, dim=-1)
        x, _ = self.streams(tokens, positions, context, steered, cache)
        shift, scale = steered[-2:]
        velocity = self.proj_out(self.norm_out.norm(x) * scale + shift)
        kept = [*cache.presents, *cache.presents_text] if self.takes_cache else []
        return (velocity, *(t for kv in kept for t in kv), *([] if self.light else cache.residual))

    def streams(
        self, tokens: Tensor, positions: Tensor, text: Tensor, steered: tuple[Tensor, ...], cache: Cache
    ) -> tuple[Tensor, Tensor]:
        """Image and text streams after the last block; fills the cache. All blocks of a kind are steered alike."""
        image, of_text, single = (
            [Modulation(*steered[at : at + 3]) for at in places] for places in ((0, 3), (6, 9), (12,))
        )
        places, streams = self.places(positions, text), Streams(self.x_embedder(tokens), text)
        before = streams.apart()
        for number in range(len(self.transformer_blocks) + len(self.single_transformer_blocks)):
            if number == self.middle.start:
                before = streams.apart()
                if self.light:
                    streams = Streams(*(x + more for x, more in zip(before, cache.residual, strict=True)))
            blocks, place = self.place(number)
            if self.light and number in self.middle:
                continue
            if blocks is self.transformer_blocks:
                x, text = self.joint_block(blocks[place], streams.apart(), (image, of_text), places, cache)
                streams = Streams(x, text)
            else:
                joined = streams.joined()
                streams = streams.after(self.single_block(blocks[place], joined, single[0], places, cache))
            if number + 1 == self.middle.stop and not self.light:
                cache.residual = [self.added(now, x) for now, x in zip(streams.apart(), before, strict=True)]
        return streams.apart()

    def places(self, positions: Tensor, text: Tensor) -> Places:
        """Of the active tokens, and of the text tokens that are live."""
        image = self.image_turns.index_select(0, positions.flatten()).unflatten(0, positions.shape)
        of_text = self.text_turns[: text.shape[1]]
        return Places(image, of_text.expand(text.shape[0], *of_text.shape))

    def joint_block(
        self,
        block: nn.Module,
        streams: tuple[Tensor, Tensor],
        steered: tuple[list[Modulation], list[Modulation]],
        places: Places,
        cache: Cache,
    ) -> tuple[Tensor, Tensor]:
        """One block with weights for each stream; appends keys and values to the cache's presents."""
        (x, text), (of_image, of_text), attn = streams, steered, block.attn
        normed, text_normed = of_image[0].normed(block.norm1, x), of_text[0].normed(block.norm1_context, text)

        def heads(stream: Tensor, linear: nn.Linear, norm: nn.Module, by: Tensor) -> Tensor:
            return self.turned(project(stream, linear, norm, attn.heads), by)

        query = heads(normed, attn.to_q, attn.norm_q, places.image)
        text_query = heads(text_normed, attn.add_q_proj, attn.norm_added_q, places.text)
        present = KeyValue(
            heads(normed, attn.to_k, attn.norm_k, places.image), project(normed, attn.to_v, None, attn.heads)
        )
        present_text = KeyValue(
            heads(text_normed, attn.add_k_proj, attn.norm_added_k, places.text),
            project(text_normed, attn.add_v_proj, None, attn.heads),
        )
        everything = joined([present, *cache.everything(), present_text])
        cache.presents.append(present)
        cache.presents_text.append(present_text)
        out = attended(torch.cat([query, text_query], dim=1), everything)
        x = of_image[0].residual(x, flat(attn.to_out[0], out[:, : x.shape[1]]))
        text = of_text[0].residual(text, flat(attn.to_add_out, out[:, x.shape[1] :]))
        x = feed_forward(block.ff, block.norm2, x, of_image[1])
        return x, feed_forward(block.ff_context, block.norm2_context, text, of_text[1])

    def single_block(
        self, block: nn.Module, stream: Tensor, steered: Modulation, places: Places, cache: Cache
    ) -> Tensor:
        """One block over both streams at once, image first, attention beside feed-forward."""
        attn, width, active = block.attn, block.attn.inner_dim, places.image.shape[1]
        whole = flat(attn.to_qkv_mlp_proj, steered.normed(block.norm, stream))
        *parts, inner = whole.split([width, width, width, whole.shape[-1] - 3 * width], dim=-1)
        query, key, value = (part.unflatten(-1, (attn.heads, attn.head_dim)) for part in parts)
        by = torch.cat([places.image, places.text], dim=1)
        query, key = self.turned(attn.norm_q(query), by), self.turned(attn.norm_k(key), by)
        everything = joined([KeyValue(key, value), *cache.everything()])
        cache.presents.append(KeyValue(key[:, :active], value[:, :active]))
        cache.presents_text.append(KeyValue(key[:, active:], value[:, active:]))
        out = torch.cat([attended(query, everything), attn.mlp_act_fn(inner)], dim=-1)
        return steered.residual(stream, flat(attn.to_out, out))
