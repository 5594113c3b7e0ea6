"""What every transformer's blocks are made of: attention over tokens and a cache of others, modulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each (G, tokens, H, D)."""

    key: Tensor
    value: Tensor


def attended(query: Tensor, past: KeyValue) -> Tensor:
    """What tokens (G, M, H, D) take of all keys and values: (G, M, H * D)."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, *past))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def flat(layer: nn.Module, x: Tensor) -> Tensor:
    """A token-wise layer over (G, tokens, width), run in two dimensions.

    As a two-dimensional product it exports as one Gemm with its bias; in three it becomes MatMul and Add, and the
    additions were 9 % of small's time on ONNX Runtime's CPU provider (width 128, 256 tokens).
    """
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def project(x: Tensor, linear: nn.Linear, norm: nn.Module | None, heads: int) -> Tensor:
    """One of query, key, value: projected, split into heads, and only then normalised (norm_q has D weights)."""
    size = linear.out_features // heads  # said, for of no tokens at all none can be inferred
    split = linear(x.flatten(0, 1)).view(*x.shape[:2], heads, size)
    return split if norm is None else norm(split)


def joined(parts: list[KeyValue]) -> KeyValue:
    """All keys and all values, part after part; attention does not care about their order."""
    return KeyValue(torch.cat([p.key for p in parts], dim=1), torch.cat([p.value for p in parts], dim=1))


class Modulation(NamedTuple):
    """How one part of a block is steered, each (G, 1, width): the 1 that a scale is added to is in it."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        """The stream as the part reads it; `norm` has no weights of its own."""
        return norm(x) * self.scale + self.shift

    def residual(self, x: Tensor, out: Tensor) -> Tensor:
        """The stream with what the part answered."""
        return x + self.gate * out


def feed_forward(block: nn.Module, norm: nn.Module, x: Tensor, steered: Modulation) -> Tensor:
    """A modulated feed-forward with its residual."""
    return steered.residual(x, flat(block, steered.normed(norm, x)))


@dataclass
class Cache:
    """Keys and values, slot after slot as the layers come: what a call is given, and what it leaves behind."""

    past: list[KeyValue]  # of cached image tokens, one for each attention layer; empty without a cache
    past_text: list[KeyValue]  # of cached text tokens, one for each joint attention
    presents: list[KeyValue] = field(default_factory=list)
    presents_text: list[KeyValue] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)  # what the middle blocks added to image and text

    def image(self) -> list[KeyValue]:
        """The cached image tokens of the layer that comes next."""
        return self.past[len(self.presents) :][:1]

    def everything(self) -> list[KeyValue]:
        """The cached image and text tokens of the joint attention that comes next."""
        return [*self.image(), *self.past_text[len(self.presents_text) :][:1]]


def steering(linear: nn.Linear, emb: Tensor, *, scale_first: bool = False) -> list[Tensor]:
    """Shift, scale, gate, shift ... from emb (rows, width), each (rows, width), 1 added to every scale.

    `scale_first`: as AdaLayerNormContinuous has it, scale and shift.
    """
    parts = list(linear(emb).chunk(linear.out_features // emb.shape[-1], dim=-1))
    if scale_first:
        parts.reverse()
    return [part + 1 if place % 3 == 1 else part for place, part in enumerate(parts)]


class Added(nn.Module):
    """What blocks added to a stream: a module, so that the exported nodes are none of a block's own."""

    def forward(self, after: Tensor, before: Tensor) -> Tensor:
        """(G, tokens, width)."""
        return after - before
