"""A transformer's configuration, with diffusers' defaults and none of its code, and its weights set beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from hsexport.checkpoints.documents import PairError, read_config, whole_number
from hsexport.checkpoints.shards import TensorHeader
from hsexport.families.shared.layers import OTHER, check_names, check_said_is_held

FAMILY = "hsexport exports the SD3 family"
BUFFERS = frozenset({"pos_embed.pos_embed"})  # computed from a formula, not learned
BLOCK = re.compile(r"transformer_blocks\.(\d{1,7})\.(.+)")


@dataclass(frozen=True)
class TransformerConfig:
    """What shapes an SD3 transformer; names and defaults are diffusers' own."""

    pos_embed_max_size: int
    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    out_channels: int = 16
    num_layers: int = 18
    num_attention_heads: int = 18
    attention_head_dim: int = 64
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    qk_norm: Literal["rms_norm"] | None = None
    dual_attention_layers: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers per token inside the network: heads times head size."""
        return self.num_attention_heads * self.attention_head_dim


NUMBERS = tuple(field.name for field in fields(TransformerConfig) if field.type == "int")


def transformer_config_from(path: Path) -> TransformerConfig:
    """The configuration in a transformer's directory; what it leaves out takes SD3Transformer2DModel's defaults."""
    said = read_config(path, "config.json", "SD3Transformer2DModel", FAMILY)
    if said.get("pos_embed_max_size") is None:
        raise PairError(
            f"{path}/config.json has no pos_embed_max_size, expected the side of the position table",
            "hsexport looks positions up in that table; save the transformer again with diffusers",
        )
    raw = asdict(TransformerConfig(pos_embed_max_size=1)) | said
    if raw["out_channels"] is None:
        raw["out_channels"] = raw["in_channels"]
    if raw["qk_norm"] not in (None, "rms_norm"):
        raise PairError(f"{path}/config.json has an unknown qk_norm '{raw['qk_norm']}'; known: none, rms_norm", FAMILY)
    dual = [] if raw["dual_attention_layers"] is None else raw["dual_attention_layers"]
    if not isinstance(dual, list | tuple) or not all(isinstance(layer, int) for layer in dual):
        raise PairError(f"{path}/config.json has dual_attention_layers {dual!r}, expected a list of layer numbers")
    config = TransformerConfig(
        **{key: whole_number(raw, key, path) for key in NUMBERS},
        qk_norm=raw["qk_norm"],
        dual_attention_layers=tuple(sorted(set(dual))),
    )
    if raw.get("quantization_config"):
        raise PairError(
            f"{path}/config.json has a quantization_config; quantised checkpoints are not read", "give the original"
        )
    check_settings(config, f"{path}/config.json")
    return config


def check_settings(config: TransformerConfig, where: str) -> None:
    """Refuses settings that contradict one another or that no engine here can hold; `where` they were found."""
    if config.out_channels != config.in_channels:
        raise PairError(
            f"{where} has out_channels {config.out_channels} and in_channels {config.in_channels}, expected the same",
            "a velocity has the latent's own channels; inpainting and control variants are not exported",
        )
    if config.caption_projection_dim != config.width:
        raise PairError(
            f"{where} has caption_projection_dim {config.caption_projection_dim}, "
            f"expected the width {config.width} (num_attention_heads x attention_head_dim)"
        )
    outside = [layer for layer in config.dual_attention_layers if not 0 <= layer < config.num_layers]
    if outside:
        raise PairError(f"{where} lists dual_attention_layers {outside}, but num_layers is {config.num_layers}")
    side = config.sample_size // config.patch_size
    if side > config.pos_embed_max_size:
        raise PairError(
            f"{where} has pos_embed_max_size {config.pos_embed_max_size}, too small for its own sample_size "
            f"{config.sample_size}: that is {side} patches of {config.patch_size} a side",
            "the config does not belong to these weights; download or save the model again",
        )


def check_checkpoint(transformer: Path, config: TransformerConfig, headers: Mapping[str, TensorHeader]) -> None:
    """Refuses weights that are not those the configuration describes."""
    check_names(transformer, headers)
    blocks: dict[int, set[str]] = {}  # names of tensors within a layer
    for match in filter(None, map(BLOCK.fullmatch, headers)):
        blocks.setdefault(int(match[1]), set()).add(match[2])
    check_said_is_held(transformer, "num_layers", list(range(config.num_layers)), sorted(blocks))
    dual = [layer for layer in sorted(blocks) if "attn2.to_q.weight" in blocks[layer]]
    check_said_is_held(transformer, "dual_attention_layers", list(config.dual_attention_layers), dual)
    normed = [layer for layer in sorted(blocks) if "attn.norm_q.weight" in blocks[layer]]
    expected = list(range(config.num_layers)) if config.qk_norm else []
    check_said_is_held(transformer, f"qk_norm {config.qk_norm or 'none'}", expected, normed)
    for name, shape in border_shapes(config).items():
        found = headers[name].shape if name in headers else None
        if found != shape:
            raise PairError(
                f"{transformer} is a broken checkpoint: tensor {name} is {list(found) if found else 'missing'}, "
                f"expected {list(shape)} by its config.json",
                OTHER,
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
