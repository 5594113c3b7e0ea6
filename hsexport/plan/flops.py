"""All products of a network, counted from shapes: what a FLOP counter finds in the exported graph, to the last one.

hsruntime.schedule.arithmetic counts the layers alone, which is all that a schedule's speedup depends on, and needs
nothing but a manifest. Its count is the first of the parts here; the others are what surrounds the layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hsruntime.facts import Transformer, counted

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Extent:
    """How much a run of a transformer is over: rows G, active M of N tokens, T text tokens, these cached or live."""

    rows: int
    active: int
    tokens: int
    text: int
    text_cached: bool = False

    @property
    def live_text(self) -> int:
        """Text tokens that go through the network."""
        return 0 if self.text_cached else self.text


def pass_flops(model: Transformer, over: Extent) -> dict[str, int]:
    """Of one run, all rows together, by part of the network."""
    dims = {"G": over.rows, "M": over.active, "N": over.tokens, "T": over.text, "L": over.live_text}
    return {part: counted(terms, **dims) for part, terms in model.operations.items()}


TABLES = re.compile(r".*(embedding|embed_tokens|shared|relative_attention_bias).*")
QUERY = re.compile(r".*(q_proj|SelfAttention\.q)\.weight")


def encoder_flops(shapes: Shapes, rows: int, length: int) -> int:
    """Of a text encoder over `rows` prompts of `length` tokens, from its weights' shapes."""
    per_row = 0
    for name, shape in shapes.items():
        if len(shape) != 2 or TABLES.fullmatch(name):
            continue
        tokens = 1 if "text_projection" in name else length
        per_row += 2 * tokens * math.prod(shape)
        if QUERY.fullmatch(name):
            per_row += 4 * length * length * shape[0]  # scores, and the values they weigh
    return rows * per_row


LEVEL = re.compile(r"decoder\.up_blocks\.(\d+)\.(upsamplers)?.*")


def decoder_flops(shapes: Shapes, pictures: int, height: int, width: int) -> int:
    """Of the VAE's decoder over latents of that size; every block but the last doubles both sides."""
    blocks = 1 + max(int(found[1]) for found in map(LEVEL.match, shapes) if found)
    per_picture = 0
    for name, shape in shapes.items():
        pixels = height * width * 4 ** decoder_level(name, blocks)
        if len(shape) in (2, 4):
            per_picture += 2 * pixels * math.prod(shape)
        if name.endswith("to_q.weight"):
            per_picture += 4 * pixels * pixels * shape[0]
    return pictures * per_picture


def decoder_level(name: str, blocks: int) -> int:
    """How many times both sides have doubled where a weight of the decoder is used."""
    if found := LEVEL.match(name):
        return int(found[1]) + (1 if found[2] else 0)
    return blocks - 1 if name.startswith("decoder.conv_out") else 0
