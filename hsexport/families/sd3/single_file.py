"""A transformer out of a single-file checkpoint, as Stability ships SD3 and SD3.5, or in fp8 or GGUF: by its header."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from hsexport.checkpoints.gguf_header import is_gguf
from hsexport.checkpoints.shards import Place, TensorHeader
from hsexport.families.sd3.config import FAMILY, TransformerConfig, check_settings
from hsexport.families.shared.places import cut, halves_swapped, inside, renamed, tensors_of
from hsexport.families.shared.single_file import extents, heads_of, layers_with, own_tensors, placed

BLOCK = "joint_blocks"
SAMPLE_SIZE = 128  # what every SD3 was trained at; the file does not say
HEAD_SIZE = 64  # of SD3, whose queries are not normalised: their norm would tell


def read_single_file(file: Path) -> tuple[TransformerConfig, dict[str, TensorHeader]]:
    """The transformer's configuration, inferred from shapes, and its tensors by diffusers' names. Raises PairError."""
    ours = own_tensors(file, "sd3")
    if is_gguf(file):
        ours |= _with_leading_extent(ours)
    config = _config_from(file, ours)
    check_settings(config, str(file))
    return config, placed(file, ours, places_of(config), "SD3 transformer", FAMILY)


def _with_leading_extent(tensors: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """The position table (1, positions, width): ggml's own tools write no leading extent of 1."""
    table = tensors.get("pos_embed")
    return {table.name: replace(table, shape=(1, *table.shape))} if table and len(table.shape) == 2 else {}


def _config_from(file: Path, tensors: Mapping[str, TensorHeader]) -> TransformerConfig:
    shape = partial(extents, file, tensors)
    width, channels, patch, _ = shape("x_embedder.proj.weight", 4)
    caption, joint = shape("context_embedder.weight", 2)
    table, head_size = math.isqrt(shape("pos_embed", 3)[1]), HEAD_SIZE
    normed = f"{BLOCK}.0.x_block.attn.ln_q.weight"
    if normed in tensors:
        (head_size,) = shape(normed, 1)
    qk_norm: Literal["rms_norm"] | None = "rms_norm" if normed in tensors else None
    return TransformerConfig(
        sample_size=min(SAMPLE_SIZE, patch * table),
        patch_size=patch,
        in_channels=channels,
        out_channels=shape("final_layer.linear.weight", 2)[0] // patch**2,
        num_layers=len(layers_with(tensors, BLOCK, "x_block.attn.qkv.weight")),
        num_attention_heads=heads_of(file, width, head_size),
        attention_head_dim=head_size,
        joint_attention_dim=joint,
        caption_projection_dim=caption,
        pooled_projection_dim=shape("y_embedder.mlp.0.weight", 2)[1],
        pos_embed_max_size=table,
        qk_norm=qk_norm,
        dual_attention_layers=layers_with(tensors, BLOCK, "x_block.attn2.qkv.weight"),
    )


# The renaming is that of diffusers' convert_sd3_transformer_checkpoint_to_diffusers.
OUTSIDE = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
IN_BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
}
# The last block hands no text on: it has neither these, nor a gate in its modulation.
BUT_LAST = {
    "attn.to_add_out": "context_block.attn.proj",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
CONTEXT_NORM = ("norm1_context.linear", "context_block.adaLN_modulation.1")
FUSED: dict[tuple[str, ...], str] = {
    ("attn.to_q", "attn.to_k", "attn.to_v"): "x_block.attn.qkv",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "context_block.attn.qkv",
}
FUSED_DUAL: dict[tuple[str, ...], str] = {("attn2.to_q", "attn2.to_k", "attn2.to_v"): "x_block.attn2.qkv"}
QK_NORM = {
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
}
QK_NORM_DUAL = {"attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k"}
NORM, LINEAR = {"weight": "weight"}, {"weight": "weight", "bias": "bias"}


def places_of(config: TransformerConfig) -> dict[str, Place]:
    """Diffusers' name of each tensor that such a transformer has -> its place."""
    modules = tensors_of(_modules_of(config), lambda module: NORM if ".norm_" in module else LINEAR)
    return {"pos_embed.pos_embed": Place("pos_embed")} | modules


def _modules_of(config: TransformerConfig) -> Iterator[tuple[str, Place]]:
    yield from renamed(OUTSIDE)
    yield "norm_out.linear", halves_swapped("final_layer.adaLN_modulation.1")
    for layer in range(config.num_layers):
        yield from inside(f"transformer_blocks.{layer}", f"{BLOCK}.{layer}", _block_of(config, layer))


def _block_of(config: TransformerConfig, layer: int) -> Iterator[tuple[str, Place]]:
    last, dual = layer == config.num_layers - 1, layer in config.dual_attention_layers
    whole = IN_BLOCK | ({} if last else BUT_LAST) | ({"attn2.to_out.0": "x_block.attn2.proj"} if dual else {})
    if config.qk_norm:
        whole |= QK_NORM | (QK_NORM_DUAL if dual else {})
    yield from renamed(whole)
    yield from cut(FUSED | (FUSED_DUAL if dual else {}))
    name, source = CONTEXT_NORM
    yield name, halves_swapped(source) if last else Place(source)
