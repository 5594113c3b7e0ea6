"""Weights by the names that the wrapped modules have for them: a transformer's, and those of what surrounds it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hsexport.checkpoints.weights import Origin, Weight, Weights, changed, stored
from hsexport.checkpoints.weights.adapter import Adapter, fused
from hsexport.families.agreement import WRITER
from hsexport.families.pair import Member
from hsexport.families.sd3.t5_gguf import part_headers
from hsruntime.facts import Positions

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
    sources = {
        name: header
        for name, header in member.tensors.items()
        if bool(CONDITIONING.match(name)) == conditions and not name.startswith(without)
    }
    whole: dict[str, Weight] = fused({name: stored(header) for name, header in member.tensors.items()}, adapters)
    tensors, digests = {name: whole[name] for name in sources}, tuple(adapter.digest for adapter in adapters)
    origins = {name: Origin.as_it_lies(name, weight) for name, weight in tensors.items()}
    if conditions:
        return Weights(member.directory.transformer, tensors, sources, digests, origins)
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
    return Weights(member.directory.transformer, tensors, sources, (crop, *digests), origins)


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


OLD_ATTENTION = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
MODERN = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern(name: str) -> str:
    """What diffusers calls a tensor of a VAE that an older diffusers wrote, whose attention had other names."""
    return OLD_ATTENTION.sub(lambda found: f"{found[1]}.{MODERN[found[2]]}.", name)


def part_weights(folder: Path, *, prefix: str = "", kind: str = "", modules: tuple[str, ...] = ()) -> Weights:
    """All weights in a component's folder, or those of `modules`, `prefix` before each name.

    T5's embeddings answer to both their names.
    """
    headers = {n: header for n, header in part_headers(folder, kind).items() if not modules or n.startswith(modules)}
    found = dict(headers)
    if kind == "t5" and (known := next((headers[name] for name in EMBEDDINGS if name in headers), None)):
        found |= dict.fromkeys(EMBEDDINGS, known)
    if kind == "clip":  # its text model is saved with and without its own prefix
        bare = ("embeddings.", "encoder.", "final_layer_norm.")
        found |= {f"text_model.{name}": header for name, header in headers.items() if name.startswith(bare)}
    weights = {name: stored(header) for name, header in headers.items()}
    return Weights(folder, {prefix + modern(name): weights[header.name] for name, header in found.items()}, headers)


def config_fact(document: Mapping[str, Any]) -> dict[str, str]:
    """What shapes the module, as a fact of the build key: the configuration without who wrote it."""
    shaping = {key: value for key, value in document.items() if key not in WRITER}
    return {"config": json.dumps(shaping, sort_keys=True)}
