"""A FLUX.2 pair of real shapes and random weights: each member with its text encoder, large with VAE and scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

from random_pairs.pairs import PairFiles, part_of
from random_pairs.shapes import KleinShape
from random_pairs.text_side import new_qwen3, new_qwen_tokenizer
from random_pairs.weights import SHARD_BYTES

PIPELINE = "Flux2KleinPipeline"


def klein_files(
    root: Path, large: KleinShape, small: KleinShape, dtype: torch.dtype, limit: int = SHARD_BYTES
) -> PairFiles:
    """What `write_pair` is going to write."""
    tokenizer = new_qwen_tokenizer()
    builds: dict[str, Callable[[], Any]] = {
        "large/transformer": lambda: Flux2Transformer2DModel(**large.transformer()),
        "small/transformer": lambda: Flux2Transformer2DModel(**small.transformer()),
        "large/text_encoder": lambda: new_qwen3(large.text, tokenizer),
        "small/text_encoder": lambda: new_qwen3(small.text, tokenizer),
        "large/vae": AutoencoderKLFlux2,
    }
    others = {
        "large/scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        "large/tokenizer": tokenizer,
        "small/tokenizer": tokenizer,
    }
    shapes = {"large": asdict(large), "small": asdict(small)}
    made_from = json.dumps({"shape": shapes, "dtype": str(dtype), "shard": limit})
    parts = tuple(part_of(root / place, build, dtype, limit) for place, build in builds.items())
    return PairFiles(root, parts, others, {"large": PIPELINE, "small": PIPELINE}, made_from)
