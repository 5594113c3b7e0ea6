"""What lies beside an SD3 transformer: scheduler, VAE, text encoders, tokenizers; each read once, whole in itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hsexport.checkpoints.documents import AGAIN, PairError, number, read_config, read_document, whole_number
from hsexport.checkpoints.shards import Place, TensorHeader
from hsexport.checkpoints.tokenizers import check_tokenizer_there
from hsexport.families.sd3.config import FAMILY
from hsexport.families.sd3.t5_gguf import part_headers
from hsexport.families.shared.layers import OTHER
from hsruntime.facts import SHIFTS

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


TEXT_ENCODERS: dict[str, tuple[str, Literal["clip", "t5"]]] = {
    "text_encoder": ("tokenizer", "clip"),
    "text_encoder_2": ("tokenizer_2", "clip"),
    "text_encoder_3": ("tokenizer_3", "t5"),
}
"""An encoder's folder, its tokenizer's, and its kind; SD3 puts zeros for the T5's tokens where it is left out."""
CLIP_LENGTH = 77  # CLIPTextConfig's default
T5_LENGTH = 256  # StableDiffusion3Pipeline's max_sequence_length
PREFIX, BARE = "text_model.", ("embeddings.", "encoder.", "final_layer_norm.")
"""Of a CLIP's text model, which is saved with and without it; how names begin where it is missing."""
# A tensor that only this kind of part has, under any of the names it is saved by.
TELLING = {
    "vae": ("decoder.conv_in.weight",),
    "text_encoder": ("text_projection.weight",),
    "text_encoder_2": ("text_projection.weight",),
    "text_encoder_3": ("shared.weight", "encoder.embed_tokens.weight"),
}
LAYERS = {
    "clip": ("num_hidden_layers", re.compile(r"(?:text_model\.)?encoder\.layers\.(\d+)\..+")),
    "t5": ("num_layers", re.compile(r"encoder\.block\.(\d+)\..+")),
}


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
    document: Mapping[str, Any]
    """The whole config.json."""

    @property
    def scale(self) -> int:
        """Pixels per latent, in each direction."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class EncoderConfig:
    """What a build must know of a text encoder; `document` is its whole config.json."""

    name: str
    kind: Literal["clip", "t5"]
    folder: Path
    document: Mapping[str, Any]
    layers: int
    hidden: int  # numbers in a token's state
    projection: int  # numbers in the pooled answer; 0 for T5, which has none
    vocabulary: int
    longest: int  # tokens that it could read


Read = SchedulerConfig | VaeConfig | EncoderConfig


def read_parts(folders: Mapping[str, Path]) -> dict[str, Read]:
    """Every part of a member that has a configuration, by name; each file is read here and nowhere else."""
    found: dict[str, Read] = {}
    for name, folder in folders.items():
        if name == "scheduler":
            found[name] = scheduler_config_from(folder)
        elif name == "vae":
            found[name] = vae_config_from(folder)
        elif name in TEXT_ENCODERS:
            found[name] = encoder_config_from(name, folder)
    return found


def encoder_config_from(name: str, folder: Path) -> EncoderConfig:
    """Of the text encoder in a folder. Raises PairError for a setting that is no number."""
    document, kind = read_document(folder / "config.json"), TEXT_ENCODERS[name][1]
    is_t5 = kind == "t5"

    def setting(key: str, default: int | None = None) -> int:
        settings = document if default is None else {key: default, **document}
        return whole_number(settings, key, f"{folder}/config.json", "is it SD3's text encoder?")

    return EncoderConfig(
        name,
        kind,
        folder,
        document,
        layers=setting(LAYERS[kind][0]),
        hidden=setting("d_model" if is_t5 else "hidden_size"),
        projection=0 if is_t5 else setting("projection_dim"),
        vocabulary=setting("vocab_size"),
        longest=T5_LENGTH if is_t5 else setting("max_position_embeddings", CLIP_LENGTH),
    )


def encoder_tensors(encoder: EncoderConfig) -> tuple[dict[str, TensorHeader], dict[str, Place]]:
    """By transformers' names, and where a CLIP's text model goes without its own prefix, in checkpoints and LoRAs."""
    headers = part_headers(encoder.folder, encoder.kind)
    if encoder.kind != "clip":
        return headers, {}
    found = {PREFIX + name if name.startswith(BARE) else name: header for name, header in headers.items()}
    return found, {name: Place(name.removeprefix(PREFIX)) for name in found if name.startswith(PREFIX)}


def scheduler_config_from(path: Path) -> SchedulerConfig:
    """The schedule in a scheduler's directory, refused where an option would bend it away from plain shifting."""
    defaults = {"num_train_timesteps": 1000, "shift": 1.0}
    raw = defaults | read_config(path, "scheduler_config.json", "FlowMatchEulerDiscreteScheduler", FAMILY)
    for option in SCHEDULER_OFF:
        if raw.get(option):
            raise PairError(
                f"{path}/scheduler_config.json has {option} = {raw[option]!r}, which hsexport does not do",
                f"turn {option} off there if the model allows it",
            )
    return SchedulerConfig(whole_number(raw, "num_train_timesteps", path), number(raw, "shift", path, *SHIFTS))


def vae_config_from(path: Path) -> VaeConfig:
    """The configuration in a VAE's directory; what it leaves out takes AutoencoderKL's defaults."""
    document = read_config(path, "config.json", "AutoencoderKL", FAMILY)
    raw = VAE_DEFAULTS | document
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
        document=document,
    )


def check_parts_whole(folders: Mapping[str, Path], read: Mapping[str, Read], without: Collection[str]) -> None:
    """Refuses a VAE, text encoder or tokenizer whose files are cut, missing or another model's."""
    for name, folder in folders.items():
        if name in TELLING and name not in without:
            check_weights_whole(name, folder, read[name])
        elif name.startswith("tokenizer"):
            check_tokenizer_there(folder)


def check_weights_whole(name: str, folder: Path, read: Read) -> None:
    """Refuses truncated files, absent shards, and weights that are not the kind and depth `name` should have."""
    headers = part_headers(folder, read.kind if isinstance(read, EncoderConfig) else "")
    if not any(telling in headers for telling in TELLING[name]):
        raise PairError(f"{folder} is a broken checkpoint: it lacks {' or '.join(TELLING[name])}", AGAIN)
    if not isinstance(read, EncoderConfig):
        return
    setting, pattern = LAYERS[read.kind]
    held = {int(match[1]) for match in filter(None, map(pattern.fullmatch, headers))}
    if held != set(range(read.layers)):
        raise PairError(
            f"{folder} is a broken checkpoint: by its config.json ({setting}) it has {read.layers} layers, "
            f"in its files there are {len(held)}",
            OTHER,
        )
