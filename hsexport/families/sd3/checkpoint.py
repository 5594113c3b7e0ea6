"""A transformer's weights set beside the configuration in its folder, by tensor names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import TensorHeader
from hsexport.families.sd3.config import TransformerConfig

BUFFERS = frozenset({"pos_embed.pos_embed"})  # computed from a formula, not learned
BLOCK = re.compile(r"transformer_blocks\.(\d+)\.(.+)")


def check_checkpoint(transformer: Path, config: TransformerConfig, headers: Mapping[str, TensorHeader]) -> None:
    """Refuses weights that are not those the configuration describes."""
    blocks = blocks_in(headers)
    check_said_is_held(transformer, "num_layers", list(range(config.num_layers)), sorted(blocks))
    dual = [layer for layer in sorted(blocks) if "attn2.to_q.weight" in blocks[layer]]
    check_said_is_held(transformer, "dual_attention_layers", list(config.dual_attention_layers), dual)
    normed = [layer for layer in sorted(blocks) if "attn.norm_q.weight" in blocks[layer]]
    expected = list(range(config.num_layers)) if config.qk_norm else []
    check_said_is_held(transformer, f"qk_norm {config.qk_norm or 'none'}", expected, normed)
    check_shapes(transformer, config, headers)


def blocks_in(headers: Mapping[str, TensorHeader]) -> dict[int, set[str]]:
    """Layer number -> the names of its tensors within the layer."""
    blocks: dict[int, set[str]] = {}
    for match in filter(None, map(BLOCK.fullmatch, headers)):
        blocks.setdefault(int(match[1]), set()).add(match[2])
    return blocks


def check_said_is_held(transformer: Path, setting: str, said: list[int], held: list[int]) -> None:
    """Refuses layers that the weights hold otherwise than `setting` says."""
    if said != held:
        raise PairError(
            f"{transformer} is a broken checkpoint: by its config.json ({setting}) layers {layers_in_words(said)} "
            f"have those weights, in its files layers {layers_in_words(held)} do",
            "config and weights come from different models; download or save it again",
        )


def layers_in_words(layers: list[int]) -> str:
    """`0-23`, `0, 2, 5` or `none`."""
    if not layers:
        return "none"
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def check_shapes(transformer: Path, config: TransformerConfig, headers: Mapping[str, TensorHeader]) -> None:
    """Refuses tensors at the transformer's borders whose shape is not the configuration's."""
    for name, expected in border_shapes(config).items():
        found = headers[name].shape if name in headers else None
        if found != expected:
            raise PairError(
                f"{transformer} is a broken checkpoint: tensor {name} is {list(found) if found else 'missing'}, "
                f"expected {list(expected)} by its config.json",
                "config and weights come from different models; download or save it again",
            )


def border_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Tensors that between them touch every width in the configuration."""
    patch, width = config.patch_size, config.width
    return {
        "pos_embed.pos_embed": (1, config.pos_embed_max_size**2, width),
        "pos_embed.proj.weight": (width, config.in_channels, patch, patch),
        "context_embedder.weight": (config.caption_projection_dim, config.joint_attention_dim),
        "time_text_embed.text_embedder.linear_1.weight": (width, config.pooled_projection_dim),
        "proj_out.weight": (patch * patch * config.out_channels, width),
    }
