"""Joint and dual attention over active tokens, with keys and values of the cached ones as inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each (G, H, tokens, D)."""

    key: Tensor
    value: Tensor


def merge_heads(x: Tensor) -> Tensor:
    """(G, H, tokens, D) as (G, tokens, H * D)."""
    return x.transpose(1, 2).flatten(2)


def flat(layer: nn.Module, x: Tensor) -> Tensor:
    """A token-wise layer over (G, tokens, width), run in two dimensions.

    As a two-dimensional product it exports as one Gemm with its bias; in three it becomes MatMul and Add, and the
    additions were 9 % of small's time on ONNX Runtime's CPU provider (width 128, 256 tokens).
    """
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def project(x: Tensor, linear: nn.Linear, norm: nn.Module | None, heads: int) -> Tensor:
    """One of query, key, value: projected, split into heads, and only then normalised (norm_q has D weights)."""
    split = flat(linear, x).unflatten(-1, (heads, -1)).transpose(1, 2)  # (G, H, tokens, D)
    return split if norm is None else norm(split)


def image_key_value(attention: Attention, x: Tensor) -> KeyValue:
    """Keys and values of the active tokens: what a cache keeps of a layer."""
    key = project(x, attention.to_k, attention.norm_k, attention.heads)
    return KeyValue(key, project(x, attention.to_v, None, attention.heads))


def text_key_value(attention: Attention, text: Tensor) -> KeyValue:
    """Keys and values of the text tokens."""
    key = project(text, attention.add_k_proj, attention.norm_added_k, attention.heads)
    return KeyValue(key, project(text, attention.add_v_proj, None, attention.heads))


def joined(parts: list[KeyValue]) -> KeyValue:
    """All keys and all values, part after part; attention does not care about their order."""
    return KeyValue(torch.cat([p.key for p in parts], dim=2), torch.cat([p.value for p in parts], dim=2))


def self_attention(attention: Attention, x: Tensor, past: list[KeyValue]) -> tuple[Tensor, KeyValue]:
    """SD3.5-Medium's second attention: image tokens among themselves."""
    query = project(x, attention.to_q, attention.norm_q, attention.heads)
    present = image_key_value(attention, x)
    everything = joined([present, *past]) if past else present
    out = F.scaled_dot_product_attention(query, everything.key, everything.value)
    return flat(attention.to_out[0], merge_heads(out)), present


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
        out = F.scaled_dot_product_attention(query, everything.key, everything.value)
        return flat(attention.to_out[0], merge_heads(out)), None, present, present_text
    text_query = project(text, attention.add_q_proj, attention.norm_added_q, attention.heads)
    query = torch.cat([query, text_query], dim=2)
    out = merge_heads(F.scaled_dot_product_attention(query, everything.key, everything.value))
    image_out = flat(attention.to_out[0], out[:, :active])
    return image_out, flat(attention.to_add_out, out[:, active:]), present, present_text
