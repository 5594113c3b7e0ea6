"""A transformer's configuration, with diffusers' defaults and none of its code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hsexport.checkpoints.documents import PairError, read_config, whole_number

FAMILY = "hsexport exports the SD3 family"
TRANSFORMER_DEFAULTS = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 18,
    "num_attention_heads": 18,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
}


@dataclass(frozen=True)
class TransformerConfig:
    """What shapes an SD3 transformer; field names are diffusers' own."""

    sample_size: int
    patch_size: int
    in_channels: int
    out_channels: int
    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    joint_attention_dim: int
    caption_projection_dim: int
    pooled_projection_dim: int
    pos_embed_max_size: int
    qk_norm: Literal["rms_norm"] | None = None
    dual_attention_layers: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers per token inside the network: heads times head size."""
        return self.num_attention_heads * self.attention_head_dim


def transformer_config_from(path: Path) -> TransformerConfig:
    """The configuration in a transformer's directory; what it leaves out takes SD3Transformer2DModel's defaults."""
    raw = TRANSFORMER_DEFAULTS | read_config(path, "config.json", "SD3Transformer2DModel", FAMILY)
    if raw.get("pos_embed_max_size") is None:
        raise PairError(
            f"{path}/config.json has no pos_embed_max_size, expected the side of the position table",
            "hsexport looks positions up in that table; save the transformer again with diffusers",
        )
    if raw["out_channels"] is None:
        raw["out_channels"] = raw["in_channels"]
    config = TransformerConfig(
        **{key: whole_number(raw, key, path) for key in (*TRANSFORMER_DEFAULTS, "pos_embed_max_size")},
        qk_norm=qk_norm_from(raw.get("qk_norm"), path),
        dual_attention_layers=dual_layers_from(raw.get("dual_attention_layers"), path),
    )
    if raw.get("quantization_config"):
        raise PairError(
            f"{path}/config.json has a quantization_config; quantised checkpoints are not read", "give the original"
        )
    check_settings(config, f"{path}/config.json")
    return config


def qk_norm_from(value: Any, path: Path) -> Literal["rms_norm"] | None:
    """The normalisation of queries and keys, one hsexport can write into a graph."""
    if value is None or value == "rms_norm":
        return value
    raise PairError(f"{path}/config.json has an unknown qk_norm '{value}'; known: none, rms_norm", FAMILY)


def dual_layers_from(value: Any, path: Path) -> tuple[int, ...]:
    """The layers with a second attention, in order."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(layer, int) for layer in value):
        raise PairError(f"{path}/config.json has dual_attention_layers {value!r}, expected a list of layer numbers")
    return tuple(sorted(set(value)))


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
