"""All products of a network, counted from shapes: what a FLOP counter finds in the exported graph, to the last one.

hsruntime.schedule.arithmetic counts the layers alone, which is all that a schedule's speedup depends on, and needs
nothing but a manifest. Its count is the first of the parts here; the others are what surrounds the layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hsruntime.bundle.manifest import Latent, Transformer
from hsruntime.schedule.arithmetic import step_flops

TIMESTEP_WIDTH = 256  # diffusers' CombinedTimestepTextProjEmbeddings
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class PassFlops:
    """Floating-point operations of one run of a transformer, all rows together, by where they happen."""

    layers: int
    embeddings: int  # of tokens, text, timestep and pooled text
    modulation: int
    output: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.embeddings + self.modulation + self.output


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


def pass_flops(model: Transformer, latent: Latent, over: Extent) -> PassFlops:
    """Of one run. The timestep is one for all rows; modulation follows from it and the pooled text, not the tokens."""
    w, rows, token = model.width, over.rows, latent.token_width
    per_row = over.active * token * w + over.live_text * model.text_width * w + model.pooled_width * w + w * w
    chunks = 6 * model.layers + 3 * len(model.dual_attention_layers)  # of width w, for the image; a dual one has 9
    chunks += 6 * (model.layers - 1) + 2  # for the text, of which the last layer keeps keys and values only
    chunks += 2  # norm_out
    layers = step_flops(model, over.active, over.tokens, over.text, text_cached=over.text_cached)
    return PassFlops(
        layers=rows * layers,
        embeddings=2 * (rows * per_row + TIMESTEP_WIDTH * w + w * w),
        modulation=2 * rows * chunks * w * w,
        output=2 * rows * over.active * w * token,
    )


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
