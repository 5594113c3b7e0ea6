"""What a FLUX.2 network computes and holds while it runs, counted from its configuration and its weights' shapes."""

from __future__ import annotations

import math
from dataclasses import replace

from hsexport.families.flux2.config import TransformerConfig
from hsexport.families.shared.counts import Dims, Shapes, middle_of, products
from hsruntime.facts import Operations

CHUNKS = 17
"""Shifts, scales and gates of a token's width that a step takes: 6 of image, 6 of text, 3 of both together, 2 of the
output."""


def left_out_by(config: TransformerConfig, outer: tuple[int, int] | None) -> tuple[str, ...]:
    """How names of weights begin in the blocks that a light form leaves out, joint and single-stream ones in a row."""
    joint, numbers = config.num_layers, middle_of(config.layers, outer)
    return (
        *(f"transformer_blocks.{number}." for number in numbers if number < joint),
        *(f"single_transformer_blocks.{number - joint}." for number in numbers if number >= joint),
    )


def without_middle(config: TransformerConfig, outer: tuple[int, int] | None) -> TransformerConfig:
    """A transformer of the outer blocks alone, as far as counting goes."""
    gone = left_out_by(config, outer)
    joint = sum(name.startswith("transformer_blocks.") for name in gone)
    return replace(
        config,
        num_layers=config.num_layers - joint,
        num_single_layers=config.num_single_layers - (len(gone) - joint),
    )


def transformer_operations(config: TransformerConfig) -> dict[str, Operations]:
    """Matrix products of a step, a multiplication and an addition being two operations.

    Blocks of both kinds, per token: 4 w^2 multiply-adds in query, key, value and output, 3 w i in a gated feed-forward
    of inner width i; per query and key 2 w.
    """
    width, layers = config.width, config.layers
    a_token, a_pair = 2 * layers * (4 * width + 3 * config.inner) * width, 4 * width * layers
    return {
        "layers": {
            "G*M": a_token,
            "G*L": a_token,
            "G*M*N": a_pair,
            "G*M*T": a_pair,
            "G*L*N": a_pair,
            "G*L*T": a_pair,
        },
        "tokens": {"G*M": 4 * config.in_channels * width},  # in and out
    }


ROWS = {"context_embedder": ("G", "T")}
"""Over which rows a conditioning network's products run, by how the weight's name begins; all others S."""


def conditioning_operations(shapes: Shapes, dims: Dims) -> int:
    """Of a conditioning network over S noise levels, G rows and T text tokens, from its weights' shapes."""
    return products(shapes, dims, ROWS, ("S",))


def transformer_activations(config: TransformerConfig, dims: Dims, *, fused: bool) -> int:
    """Numbers alive at its widest, in a single-stream block; `dims` as operations have them.

    Over live tokens the stream, its norm, what both are projected to, query and key turned, the result with the inner
    of the feed-forward; over all, keys and values joined; and the scores, where they are written out.
    """
    live, keys = dims["M"] + dims["L"], dims["N"] + dims["T"]
    numbers = live * (8 * config.width + 3 * config.inner) + 2 * keys * config.width
    if not fused:
        numbers += config.num_attention_heads * live * keys
    return dims["G"] * numbers


def encoder_operations(shapes: Shapes, dims: Dims, length: int) -> int:
    """Of a text encoder over B prompts of `length` tokens, from its weights' shapes."""
    per_row = 0
    for name, shape in shapes.items():
        if len(shape) == 2 and not name.startswith("embed_tokens"):
            per_row += 2 * length * math.prod(shape)
        if name.endswith("q_proj.weight"):
            per_row += 4 * length * length * shape[0]  # scores, and the values they weigh
    return dims["B"] * per_row
