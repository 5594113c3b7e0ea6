"""A pair of real shapes and random weights, in diffusers' directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from gpu_checks.random_weights import SHARD_BYTES, randomise, tensors_of, write_random
from gpu_checks.shapes import HEAD_SIZE, PairShape
from gpu_checks.text_side import END, new_clip, new_clip_tokenizer, new_t5, new_t5_tokenizer

CLIP_LENGTH, T5_LENGTH = 77, 256  # StableDiffusion3Pipeline's
SHIFT = 3.0
MADE_FROM = "shape.json"
OnShard = Callable[[str, int, int], None]


def make_pair(
    root: Path, shape: PairShape, dtype: torch.dtype, on_shard: OnShard, limit: int = SHARD_BYTES
) -> tuple[Path, Path]:
    """Folders of large, a whole pipeline, and small, a transformer alone; `root` is filled or, if whole, kept.

    A run that was killed goes on at the shard it was at. `on_shard` hears of a role's shards done and in all.
    """
    made_from = json.dumps({"shape": asdict(shape), "dtype": str(dtype), "shard": limit})
    _start_over_if_changed(root, made_from)
    large, small = root / "large", root / "small"
    for role, folder in (("large", large), ("small", small)):
        _write_transformer(
            folder / "transformer",
            shape.transformer(role),
            dtype,
            lambda done, total, role=role: on_shard(role, done, total),  # type: ignore[misc]
            limit,
        )
    if not (large / "model_index.json").is_file():
        parts = shared_parts(shape, dtype)
        for name, part in parts.items():
            part.save_pretrained(large / name)
        index: dict[str, Any] = {"_class_name": "StableDiffusion3Pipeline"}
        index |= {name: [_library(part), type(part).__name__] for name, part in parts.items()}
        index["transformer"] = ["diffusers", SD3Transformer2DModel.__name__]
        (large / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return large, small


def shared_parts(shape: PairShape, dtype: torch.dtype) -> dict[str, Any]:
    """Scheduler, VAE, tokenizers and text encoders by the names that a pipeline gives them."""
    clips = [new_clip_tokenizer(END, CLIP_LENGTH), new_clip_tokenizer("!", CLIP_LENGTH)]
    t5 = new_t5_tokenizer(T5_LENGTH)
    layers, parts = shape.text_layers, {}
    for name, width, tokenizer in zip(("text_encoder", "text_encoder_2"), shape.clip_widths, clips, strict=True):
        parts[name] = new_clip(width, width, tokenizer, layers=layers, heads=max(1, width // HEAD_SIZE), growth=4)
    heads, inner = max(1, shape.text_width // HEAD_SIZE), shape.text_width * 5 // 2  # T5-XXL's 10240 over 4096
    parts["text_encoder_3"] = new_t5(shape.text_width, t5, layers=layers, heads=heads, head_size=HEAD_SIZE, inner=inner)
    parts["vae"] = new_vae(shape)
    drawn = {name: randomise(part, seed).to(dtype) for seed, (name, part) in enumerate(parts.items())}
    tokenizers = {"tokenizer": clips[0], "tokenizer_2": clips[1], "tokenizer_3": t5}
    return {"scheduler": FlowMatchEulerDiscreteScheduler(shift=SHIFT), **tokenizers, **drawn}


def new_vae(shape: PairShape) -> AutoencoderKL:
    """SD3's VAE: 16 channels, each side an eighth."""
    blocks = len(shape.vae_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=shape.vae_widths,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=min(32, min(shape.vae_widths)),
        sample_size=1024,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _write_transformer(
    folder: Path, settings: dict[str, Any], dtype: torch.dtype, on_shard: Callable[[int, int], None], limit: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "SD3Transformer2DModel", **settings}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    write_random(folder, tensors_of(lambda: SD3Transformer2DModel(**settings)), dtype, on_shard, limit)


def _start_over_if_changed(root: Path, made_from: str) -> None:
    """Leaves `root` with the note of what is being made in it, and nothing of anything else."""
    note = root / MADE_FROM
    if root.is_dir() and not (note.is_file() and note.read_text(encoding="utf-8") == made_from):
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    note.write_text(made_from, encoding="utf-8")


def _library(part: Any) -> str:
    return type(part).__module__.partition(".")[0]
