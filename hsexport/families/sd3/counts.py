"""What an SD3 network computes and holds while it runs, counted from its configuration and its weights' shapes."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from hsexport.families.sd3.config import TransformerConfig
from hsexport.families.shared.counts import Dims, Shapes, middle_of, products
from hsruntime.facts import Operations


def modulation_chunks(config: TransformerConfig) -> int:
    """How many shifts, scales and gates of a token's width a step takes, those of the output among them."""
    of_image = 6 * config.num_layers + 3 * len(config.dual_attention_layers)
    return of_image + 6 * (config.num_layers - 1) + 2 + 2


def without_middle(config: TransformerConfig, outer: tuple[int, int] | None) -> TransformerConfig:
    """A transformer of the outer blocks alone, as far as counting goes."""
    middle = middle_of(config.num_layers, outer)
    dual = tuple(layer for layer in config.dual_attention_layers if layer not in middle)
    return replace(config, num_layers=config.num_layers - len(middle), dual_attention_layers=dual)


def transformer_operations(config: TransformerConfig) -> dict[str, Operations]:
    """Matrix products of a step, a multiplication and an addition being two operations.

    Layers, per token: 12 w^2 multiply-adds (query, key, value, output, two of 4 w^2 in the feed-forward), per query and
    key 2 w. The last layer's text keeps keys and values only; a dual attention adds 4 w^2 and its own queries and keys
    among image tokens.
    """
    w, layers, dual = config.width, config.num_layers, len(config.dual_attention_layers)
    token = config.in_channels * config.patch_size**2
    return {
        "layers": {
            "G*M": 2 * (12 * layers + 4 * dual) * w * w,
            "G*L": 2 * (12 * layers - 10) * w * w,
            "G*M*N": 4 * w * (layers + dual),
            "G*M*T": 4 * w * layers,
            "G*L*N": 4 * w * (layers - 1),
            "G*L*T": 4 * w * (layers - 1),
        },
        "tokens": {"G*M": 4 * token * w},  # in and out
    }


ROWS = {"time_text_embed.timestep": ("S",), "time_text_embed.text": ("G",), "context_embedder": ("G", "T")}
"""Over which rows a conditioning network's products run, by how the weight's name begins; all others S * G."""


def conditioning_operations(shapes: Shapes, dims: Dims) -> int:
    """Of a conditioning network over S noise levels, G rows and T text tokens, from its weights' shapes."""
    return products(shapes, dims, ROWS, ("S", "G"))


def transformer_activations(config: TransformerConfig, dims: Dims, *, fused: bool) -> int:
    """Numbers alive at its widest, in an attention or in the image's feed-forward; `dims` as operations have them.

    Attention: the stream, its norm, query, key, value, the query joined and the result, over live tokens; keys and
    values joined, over all; and the scores, where they are written out. Feed-forward: the stream over live tokens, its
    norm and twice the fourfold width over active ones.
    """
    live, keys = dims["M"] + dims["L"], dims["N"] + dims["T"]
    attention = (7 * live + 2 * keys) * config.width
    if not fused:
        attention += config.num_attention_heads * live * keys
    return dims["G"] * max(attention, (live + 9 * dims["M"]) * config.width)


TABLES = re.compile(r".*(embedding|embed_tokens|shared|relative_attention_bias).*")
QUERY = re.compile(r".*(q_proj|SelfAttention\.q)\.weight")


def encoder_operations(shapes: Shapes, dims: Dims, length: int) -> int:
    """Of a text encoder over B prompts of `length` tokens, from its weights' shapes."""
    per_row = 0
    for name, shape in shapes.items():
        if len(shape) != 2 or TABLES.fullmatch(name):
            continue
        tokens = 1 if "text_projection" in name else length
        per_row += 2 * tokens * math.prod(shape)
        if QUERY.fullmatch(name):
            per_row += 4 * length * length * shape[0]  # scores, and the values they weigh
    return dims["B"] * per_row
