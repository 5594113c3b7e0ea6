"""Configurations by file: the transformer, the VAE and the scheduler, with diffusers' defaults and none of its code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .documents import read_document
from .errors import PairError

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
VAE_DEFAULTS: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": [64],
    "down_block_types": ["DownEncoderBlock2D"],
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"],
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
# What the VAE was tuned at and how diffusers casts it: neither changes a latent.
VAE_NEUTRAL = frozenset({"sample_size", "force_upcast"})
SCHEDULER_OFF = (
    "use_dynamic_shifting",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
    "shift_terminal",
)


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


@dataclass(frozen=True)
class SchedulerConfig:
    """The flow matching schedule: sigma' = shift * sigma / (1 + (shift - 1) * sigma)."""

    num_train_timesteps: int
    shift: float


@dataclass(frozen=True)
class VaeConfig:
    """What a VAE does to latents; `compared` holds every setting two VAEs must share."""

    latent_channels: int
    block_out_channels: tuple[int, ...]
    scaling_factor: float
    shift_factor: float
    compared: Mapping[str, Any]

    @property
    def scale(self) -> int:
        """Pixels per latent, in each direction."""
        return int(2 ** (len(self.block_out_channels) - 1))


def read_config(path: Path, file_name: str, class_name: str) -> dict[str, Any]:
    """The settings in `path/file_name`, which must belong to `class_name`."""
    raw = read_document(path / file_name)
    found = raw.get("_class_name")
    if found != class_name:
        raise PairError(f"{path} is a {found or 'model of unnamed class'}, expected {class_name}", FAMILY)
    return raw


def whole_number(raw: Mapping[str, Any], key: str, path: Path) -> int:
    """`raw[key]`, which must be a whole number above zero."""
    value = raw[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PairError(f"{path} has {key} {value!r}, expected a whole number above zero")
    return value


def number(raw: Mapping[str, Any], key: str, path: Path) -> float:
    """`raw[key]` as a float, which must be finite."""
    value = raw[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise PairError(f"{path} has {key} {value!r}, expected a number")
    return float(value)


def transformer_config_from(path: Path) -> TransformerConfig:
    """The configuration in a transformer's directory; what it leaves out takes SD3Transformer2DModel's defaults."""
    raw = TRANSFORMER_DEFAULTS | read_config(path, "config.json", "SD3Transformer2DModel")
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


def scheduler_config_from(path: Path) -> SchedulerConfig:
    """The schedule in a scheduler's directory, refused where an option would bend it away from plain shifting."""
    defaults = {"num_train_timesteps": 1000, "shift": 1.0}
    raw = defaults | read_config(path, "scheduler_config.json", "FlowMatchEulerDiscreteScheduler")
    for option in SCHEDULER_OFF:
        if raw.get(option):
            raise PairError(
                f"{path}/scheduler_config.json has {option} = {raw[option]!r}, which hsexport does not do",
                f"turn {option} off there if the model allows it",
            )
    return SchedulerConfig(whole_number(raw, "num_train_timesteps", path), number(raw, "shift", path))


def vae_config_from(path: Path) -> VaeConfig:
    """The configuration in a VAE's directory; what it leaves out takes AutoencoderKL's defaults."""
    raw = VAE_DEFAULTS | read_config(path, "config.json", "AutoencoderKL")
    compared = {key: value for key, value in raw.items() if not key.startswith("_") and key not in VAE_NEUTRAL}
    widths = raw["block_out_channels"]
    if not isinstance(widths, list) or not widths or not all(type(width) is int and width > 0 for width in widths):
        raise PairError(f"{path} has block_out_channels {widths!r}, expected a list of widths")
    return VaeConfig(
        latent_channels=whole_number(raw, "latent_channels", path),
        block_out_channels=tuple(widths),
        scaling_factor=number(raw, "scaling_factor", path),
        shift_factor=number(raw, "shift_factor", path) if raw.get("shift_factor") is not None else 0.0,
        compared=compared,
    )
