"""A transformer's configuration, with diffusers' defaults and none of its code, and its weights set beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import AGAIN, PairError, number, read_config, read_document, whole_number
from hsexport.checkpoints.shards import TensorHeader
from hsexport.families.shared.layers import OTHER, check_names, check_said_is_held

FAMILY = "hsexport exports FLUX.2's klein and klein-base"
BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d{1,7})\..+")


@dataclass(frozen=True)
class TransformerConfig:
    """What shapes a FLUX.2 transformer; names and defaults are diffusers' own."""

    patch_size: int = 1
    in_channels: int = 128
    num_layers: int = 8
    num_single_layers: int = 48
    attention_head_dim: int = 128
    num_attention_heads: int = 48
    joint_attention_dim: int = 15360
    timestep_guidance_channels: int = 256
    mlp_ratio: float = 3.0
    axes_dims_rope: tuple[int, ...] = (32, 32, 32, 32)
    rope_theta: int = 2000
    eps: float = 1e-6
    guidance_embeds: bool = True
    is_distilled: bool = False
    """The pipeline's: drawn without guidance."""

    @property
    def width(self) -> int:
        """Numbers per token inside the network: heads times head size."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def layers(self) -> int:
        """Blocks of both kinds; each has one attention."""
        return self.num_layers + self.num_single_layers

    @property
    def inner(self) -> int:
        """Numbers per token inside a feed-forward, behind its gate."""
        return int(self.width * self.mlp_ratio)

    def diffusers(self) -> dict[str, Any]:
        """As Flux2Transformer2DModel takes it."""
        return {key: value for key, value in asdict(self).items() if key != "is_distilled"}


NUMBERS = tuple(field.name for field in fields(TransformerConfig) if field.type == "int")


def transformer_config_from(path: Path) -> TransformerConfig:
    """The configuration in a transformer's directory; what it leaves out takes Flux2Transformer2DModel's defaults."""
    raw = asdict(TransformerConfig()) | read_config(path, "config.json", "Flux2Transformer2DModel", FAMILY)
    if raw.get("quantization_config"):
        raise PairError(
            f"{path}/config.json has a quantization_config; quantised checkpoints are not read", "give the original"
        )
    axes = raw["axes_dims_rope"]
    if not isinstance(axes, list | tuple) or len(axes) != 4 or not all(type(a) is int and a > 0 for a in axes):
        raise PairError(f"{path}/config.json has axes_dims_rope {axes!r}, expected four widths", AGAIN)
    if raw.get("out_channels") not in (None, raw["in_channels"]):
        raise PairError(
            f"{path}/config.json has out_channels {raw['out_channels']} and in_channels {raw['in_channels']}, "
            "expected the same",
            "a velocity has the latent's own channels; other variants are not exported",
        )
    config = TransformerConfig(
        **{key: whole_number(raw, key, path) for key in NUMBERS},
        mlp_ratio=number(raw, "mlp_ratio", path, 0.1, 100),
        axes_dims_rope=tuple(axes),
        eps=number(raw, "eps", path, 0, 1),
        guidance_embeds=raw["guidance_embeds"] is True,
        is_distilled=_is_distilled(path),
    )
    check_settings(config, f"{path}/config.json")
    return config


def _is_distilled(transformer: Path) -> bool:
    index = transformer.parent / "model_index.json"
    return index.is_file() and read_document(index).get("is_distilled") is True


def check_settings(config: TransformerConfig, where: str) -> None:
    """Refuses settings that contradict one another or that no engine here can hold; `where` they were found."""
    if config.guidance_embeds:
        raise PairError(f"{where} has guidance_embeds, which FLUX.2-dev has and no klein", FAMILY)
    if config.patch_size != 1:
        raise PairError(f"{where} has patch_size {config.patch_size}, expected 1", FAMILY)
    if sum(config.axes_dims_rope) != config.attention_head_dim or any(a % 2 for a in config.axes_dims_rope):
        raise PairError(
            f"{where} has axes_dims_rope {list(config.axes_dims_rope)}, expected even widths that come to the "
            f"attention_head_dim {config.attention_head_dim}",
            AGAIN,
        )


def check_checkpoint(transformer: Path, config: TransformerConfig, headers: Mapping[str, TensorHeader]) -> None:
    """Refuses weights that are not those the configuration describes."""
    check_names(transformer, headers)
    held: dict[str, set[int]] = {"num_layers": set(), "num_single_layers": set()}
    for match in filter(None, map(BLOCK.fullmatch, headers)):
        held["num_single_layers" if match[1] else "num_layers"].add(int(match[2]))
    for setting, numbers in held.items():
        check_said_is_held(transformer, setting, list(range(getattr(config, setting))), sorted(numbers))
    shapes = shapes_of(config)
    for name in shapes.keys() | headers.keys():
        if name not in shapes:
            raise PairError(f"{transformer} holds {name}, which no FLUX.2 klein has", FAMILY)
        found = headers[name].shape if name in headers else None
        if found != shapes[name]:
            raise PairError(
                f"{transformer} is a broken checkpoint: tensor {name} is {list(found) if found else 'missing'}, "
                f"expected {list(shapes[name])} by its config.json",
                OTHER,
            )


def shapes_of(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that such a transformer has, by diffusers' name."""
    width, inner, head = config.width, config.inner, (config.attention_head_dim,)
    matrices = {
        "x_embedder": (width, config.in_channels),
        "context_embedder": (width, config.joint_attention_dim),
        "time_guidance_embed.timestep_embedder.linear_1": (width, config.timestep_guidance_channels),
        "time_guidance_embed.timestep_embedder.linear_2": (width, width),
        "double_stream_modulation_img.linear": (6 * width, width),
        "double_stream_modulation_txt.linear": (6 * width, width),
        "single_stream_modulation.linear": (3 * width, width),
        "norm_out.linear": (2 * width, width),
        "proj_out": (config.in_channels, width),
    }
    joint: dict[str, tuple[int, ...]] = dict.fromkeys(
        (f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", *ADDED, "to_add_out")), (width, width)
    )
    joint |= {f"attn.{name}": head for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")}
    for name in ("ff", "ff_context"):
        joint |= {f"{name}.linear_in": (2 * inner, width), f"{name}.linear_out": (width, inner)}
    single: dict[str, tuple[int, ...]] = {
        "attn.to_qkv_mlp_proj": (3 * width + 2 * inner, width),
        "attn.to_out": (width, width + inner),
        "attn.norm_q": head,
        "attn.norm_k": head,
    }
    modules: dict[str, tuple[int, ...]] = dict(matrices)
    for layer in range(config.num_layers):
        modules |= {f"transformer_blocks.{layer}.{name}": shape for name, shape in joint.items()}
    for layer in range(config.num_single_layers):
        modules |= {f"single_transformer_blocks.{layer}.{name}": shape for name, shape in single.items()}
    return {f"{name}.weight": shape for name, shape in modules.items()}


ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
