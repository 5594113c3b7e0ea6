"""Where each of diffusers' tensors lies in a checkpoint by Stability's own names: a whole tensor, or some of its rows.

The renaming is that of diffusers' convert_sd3_transformer_checkpoint_to_diffusers, without its copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hsexport.checkpoints.shards import Place
from hsexport.families.sd3.config import TransformerConfig

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
FUSED = {
    ("attn.to_q", "attn.to_k", "attn.to_v"): "x_block.attn.qkv",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "context_block.attn.qkv",
}
FUSED_DUAL = {("attn2.to_q", "attn2.to_k", "attn2.to_v"): "x_block.attn2.qkv"}
QK_NORM = {
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
}
QK_NORM_DUAL = {"attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k"}


def places_of(config: TransformerConfig) -> dict[str, Place]:
    """Diffusers' name of each tensor that such a transformer has -> its place."""
    places = {"pos_embed.pos_embed": Place("pos_embed")}
    for module, place in _modules_of(config):
        kinds = ("weight",) if ".norm_" in module else ("weight", "bias")
        places |= {f"{module}.{kind}": replace(place, source=f"{place.source}.{kind}") for kind in kinds}
    return places


def _modules_of(config: TransformerConfig) -> Iterator[tuple[str, Place]]:
    for name, source in OUTSIDE.items():
        yield name, Place(source)
    yield "norm_out.linear", _halves_swapped("final_layer.adaLN_modulation.1")
    for layer in range(config.num_layers):
        for name, place in _block_of(config, layer):
            yield f"transformer_blocks.{layer}.{name}", replace(place, source=f"joint_blocks.{layer}.{place.source}")


def _block_of(config: TransformerConfig, layer: int) -> Iterator[tuple[str, Place]]:
    last, dual = layer == config.num_layers - 1, layer in config.dual_attention_layers
    whole = IN_BLOCK | ({} if last else BUT_LAST) | ({"attn2.to_out.0": "x_block.attn2.proj"} if dual else {})
    if config.qk_norm:
        whole |= QK_NORM | (QK_NORM_DUAL if dual else {})
    for name, source in whole.items():
        yield name, Place(source)
    for names, source in (FUSED | (FUSED_DUAL if dual else {})).items():
        for number, name in enumerate(names):
            yield name, Place(source, 3, (number,))
    name, source = CONTEXT_NORM
    yield name, _halves_swapped(source) if last else Place(source)


def _halves_swapped(source: str) -> Place:
    """Stability's modulations are (shift, scale), diffusers' AdaLayerNormContinuous takes (scale, shift)."""
    return Place(source, 2, (1, 0))
