"""Weights by the names that the wrapped modules have for them: a transformer's, and those of what surrounds it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from hsexport.checkpoints.shards import read_headers
from hsexport.checkpoints.weights import Origin, Weights, changed, stored
from hsexport.checkpoints.weights.adapter import Adapter
from hsexport.families.pair import Member
from hsexport.families.recipe import Recipe
from hsexport.families.sd3.parts import EncoderConfig
from hsexport.families.shared.weights import encoder_weights, member_weights, modern, renamed
from hsruntime.facts import Positions, TextSlot

PATCH_WEIGHT, PATCH_BIAS, TABLE = "pos_embed.proj.weight", "pos_embed.proj.bias", "pos_embed.pos_embed"
"""diffusers' names of what TokenTransformer holds in another shape."""
CONDITIONING = re.compile(r"(time_text_embed|context_embedder)\..*|(.*\.norm1(_context)?|norm_out)\.linear\..*")
"""Tensors of a transformer that its conditioning network reads; all others are the denoiser's."""
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")
"""T5's one table of token embeddings, under both of the names it is saved by."""


def transformer_weights(
    member: Member, kept: Positions, adapters: tuple[Adapter, ...], *, conditions: bool, left_out: Collection[int]
) -> Weights:
    """Those that one of a member's networks reads: its conditioning network, or a denoiser without some blocks.

    As the checkpoint has them, but for the patch embedding and the table, which follow from theirs. `adapters` are
    fused first.
    """
    without = tuple(f"transformer_blocks.{number}." for number in left_out)
    read = member_weights(
        member, adapters, lambda name: bool(CONDITIONING.match(name)) == conditions and not name.startswith(without)
    )
    if conditions:
        return read
    tensors, origins = dict(read.tensors), dict(read.origins)
    by_token, table = tensors.pop(PATCH_WEIGHT), tensors.pop(TABLE)
    origins["patch_weight"] = Origin(PATCH_WEIGHT, by_token.shape, BY_TOKEN)
    origins["patch_bias"] = origins.pop(PATCH_BIAS)
    del origins[PATCH_WEIGHT], origins[TABLE]
    width, channels, *patch = by_token.shape
    tensors["patch_weight"] = changed(by_token, (width, channels * patch[0] * patch[1]), token_weight)
    tensors["patch_bias"] = tensors.pop(PATCH_BIAS)
    shape = (kept.rows * kept.columns, table.shape[-1])
    tensors["position_table"] = changed(table, shape, lambda whole: centre_rows(whole, kept))
    # A wide and a tall crop of one table have one shape; only this tells them apart.
    crop = f"{kept.rows}x{kept.columns} of {kept.table_size}"
    return replace(read, tensors=tensors, extra=(crop, *read.extra), origins=origins)


BY_TOKEN = (0, 2, 3, 1)


def token_weight(weight: np.ndarray) -> np.ndarray:
    """The patch embedding's convolution (width, C, p, p) as a matrix (width, P) over tokens laid out (p, q, C).

    diffusers reads a patch as (C, p, q) but writes it as (p, q, C); everything here uses the latter.
    """
    return np.ascontiguousarray(weight.transpose(BY_TOKEN).reshape(weight.shape[0], -1))


def centre_rows(table: np.ndarray, kept: Positions) -> np.ndarray:
    """Rows (rows * columns, width) of a trained table (1, table_size^2, width): its middle rectangle.

    diffusers crops each picture's positions from the middle of the table (PatchEmbed.cropped_pos_embed), so what
    the largest picture does not reach, no picture does.
    """
    full = table.reshape(kept.table_size, kept.table_size, -1)
    top, left = (kept.table_size - kept.rows) // 2, (kept.table_size - kept.columns) // 2
    middle = full[top : top + kept.rows, left : left + kept.columns]
    return np.ascontiguousarray(middle.reshape(kept.rows * kept.columns, -1))


def text_weights(recipe: Recipe, slot: TextSlot, encoder: EncoderConfig) -> Weights:
    """A text encoder's by the names that its wrapper has for them; T5's embeddings answer to both of theirs."""
    read = encoder_weights(recipe, slot, encoder.folder)
    names = {name: name for name in read}
    if encoder.kind == "t5" and (known := next((name for name in EMBEDDINGS if name in read), None)):
        names |= dict.fromkeys(EMBEDDINGS, known)
    return renamed(read, {f"model.{name}": theirs for name, theirs in names.items()})


def vae_weights(folder: Path, modules: tuple[str, ...]) -> Weights:
    """Those of `modules`."""
    headers = {name: header for name, header in read_headers(folder, ()).items() if name.startswith(modules)}
    return Weights(folder, {modern(name): stored(header) for name, header in headers.items()}, headers)
