"""What lies beside a FLUX.2 transformer: scheduler, VAE, text encoder, tokenizer; each read once, whole in itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import AGAIN, PairError, number, read_config, read_document, whole_number
from hsexport.checkpoints.shards import Place, TensorHeader, read_headers
from hsexport.families.flux2.config import FAMILY
from hsexport.families.shared.layers import OTHER

VAE_DEFAULTS: dict[str, Any] = {
    "act_fn": "silu",
    "batch_norm_eps": 1e-4,
    "block_out_channels": [128, 256, 512, 512],
    "decoder_block_out_channels": None,
    "in_channels": 3,
    "latent_channels": 32,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "patch_size": [2, 2],
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
NEUTRAL = frozenset({"sample_size", "force_upcast", "batch_norm_momentum"})
"""What a VAE was tuned at and how it learned: neither changes a latent."""
SCHEDULER: dict[str, Any] = {
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "shift_terminal": None,
}
"""What alone the pipeline's rule of noise levels is built for."""
TAKEN = (9, 18, 27)
"""Behind so many layers, as Flux2KleinPipeline takes them."""
PATCH = 2
"""Of the VAE's own latents along a side of a token."""
PREFIX = "model."
LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\..+")


@dataclass(frozen=True)
class VaeConfig:
    """What a VAE does to latents; `compared` holds every setting two VAEs must share."""

    latent_channels: int
    block_out_channels: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    compared: Mapping[str, Any]
    document: Mapping[str, Any]
    """The whole config.json."""

    @property
    def scale(self) -> int:
        """Pixels per patch of latents, in each direction."""
        return int(PATCH * 2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class Qwen3Shape:
    """What shapes the encoder; names are transformers' own."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True)
class EncoderConfig:
    """A member's text encoder, its folder, and its tokenizer's."""

    folder: Path
    tokenizer: Path
    shape: Qwen3Shape
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """All that a pair has beside its transformers; text encoders by the name of their text side."""

    vae: VaeConfig
    levels: int
    """Noise levels that the scheduler was trained on."""
    encoders: Mapping[str, EncoderConfig]


def levels_from(path: Path) -> int:
    """Of the scheduler in a folder, refused where it spaces noise levels otherwise than the pipeline's rule."""
    raw = read_config(path, "scheduler_config.json", "FlowMatchEulerDiscreteScheduler", FAMILY)
    for option, expected in SCHEDULER.items():
        found = raw.get(option, "exponential" if option == "time_shift_type" else None)
        if found != expected and (found or expected):
            raise PairError(
                f"{path}/scheduler_config.json has {option} = {found!r}, expected {expected!r}",
                "is it FLUX.2's scheduler? download or save the model again",
            )
    return whole_number({"num_train_timesteps": 1000} | raw, "num_train_timesteps", path)


def vae_config_from(path: Path) -> VaeConfig:
    """The configuration in a VAE's directory; what it leaves out takes AutoencoderKLFlux2's defaults."""
    document = read_config(path, "config.json", "AutoencoderKLFlux2", FAMILY)
    raw = VAE_DEFAULTS | document
    if list(raw["patch_size"]) != [PATCH, PATCH]:
        raise PairError(f"{path} has patch_size {raw['patch_size']}, expected [2, 2]", FAMILY)
    widths = raw["block_out_channels"]
    for found in filter(None, (widths, raw["decoder_block_out_channels"])):
        if not isinstance(found, list) or not all(type(width) is int and width > 0 for width in found):
            raise PairError(f"{path} has block_out_channels {found!r}, expected a list of widths", AGAIN)
    return VaeConfig(
        latent_channels=whole_number(raw, "latent_channels", path),
        block_out_channels=tuple(widths),
        decoder_widths=tuple(raw["decoder_block_out_channels"] or widths),
        compared={key: value for key, value in raw.items() if not key.startswith("_") and key not in NEUTRAL},
        document=document,
    )


def encoder_config_from(folder: Path, tokenizer: Path) -> EncoderConfig:
    """Of the Qwen3 in a folder. Raises PairError for another model, and for one with too few layers."""
    document = read_document(folder / "config.json")
    found = document.get("model_type")
    if found != "qwen3":
        raise PairError(f"{folder} is a {found or 'model of unnamed type'}, expected qwen3", FAMILY)
    where = f"{folder}/config.json"
    for option in ("attention_bias", "use_sliding_window"):
        if document.get(option):
            raise PairError(f"{where} has {option}, which no text encoder of FLUX.2 has", FAMILY)
    rope = document.get("rope_parameters") or {"rope_theta": document.get("rope_theta", 10000.0)}
    if rope.get("rope_type", "default") != "default" or document.get("rope_scaling"):
        raise PairError(f"{where} stretches its positions, which no text encoder of FLUX.2 does", FAMILY)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    numbers = {name: whole_number(document, name, where) for name in names}
    # transformers' own defaults
    beside = {"num_key_value_heads": numbers["num_attention_heads"], "head_dim": 128} | document
    shape = Qwen3Shape(
        **numbers,
        num_key_value_heads=whole_number(beside, "num_key_value_heads", where),
        head_dim=whole_number(beside, "head_dim", where),
        rms_norm_eps=number({"rms_norm_eps": 1e-6} | document, "rms_norm_eps", folder, 0, 1),
        rope_theta=number(rope, "rope_theta", folder, 1, 1e12),
    )
    if shape.num_hidden_layers <= max(TAKEN):
        raise PairError(
            f"{where} has num_hidden_layers {shape.num_hidden_layers}, expected more than {max(TAKEN)}, whose states "
            "the transformer reads",
            FAMILY,
        )
    if document.get("hidden_act", "silu") != "silu" or shape.num_attention_heads % shape.num_key_value_heads:
        raise PairError(f"{where} is no Qwen3 that FLUX.2 reads prompts by", FAMILY)
    return EncoderConfig(folder, tokenizer, shape, document)


def encoder_tensors(encoder: EncoderConfig) -> tuple[dict[str, TensorHeader], dict[str, Place]]:
    """By the names inside the model, and where what has its head, too, puts PREFIX before them."""
    found = {name.removeprefix(PREFIX): header for name, header in read_headers(encoder.folder).items()}
    return found, {name: Place(PREFIX + name) for name in found}


def check_vae_whole(folder: Path) -> None:
    """Refuses truncated files, absent shards, and weights without a decoder or without statistics."""
    headers = read_headers(folder)
    for telling in ("decoder.conv_in.weight", "bn.running_mean", "bn.running_var"):
        if telling not in headers:
            raise PairError(f"{folder} is a broken checkpoint: it lacks {telling}", AGAIN)


def check_encoder_whole(encoder: EncoderConfig) -> None:
    """Refuses truncated files, absent shards, and another number of layers than the configuration has."""
    layers = {int(match[1]) for match in filter(None, map(LAYER.fullmatch, read_headers(encoder.folder)))}
    if layers != set(range(encoder.shape.num_hidden_layers)):
        raise PairError(
            f"{encoder.folder} is a broken checkpoint: by its config.json (num_hidden_layers) it has "
            f"{encoder.shape.num_hidden_layers} layers, in its files there are {len(layers)}",
            OTHER,
        )
