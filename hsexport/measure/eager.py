"""Diffusers' own pipeline, eager: what a user would run without a bundle. Imports torch."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.source import resolve_source
from hsexport.families.pair import Pair
from hsexport.families.registry import known_parts
from hsexport.measure.bench.rounds import Contestant, Shot
from hsexport.measure.prompts import Prompt
from hsruntime.bundle.manifest import Manifest
from hsruntime.facts import Facts
from hsruntime.loop.flow import seeded_noise
from hsruntime.picture.decode import picture_bytes

DEFAULT_STEPS = 28  # the pipeline's own
PAUSE_SECONDS = 0.05  # lets the other library's threads fall asleep


def pipeline_for(pair: Pair, model: str, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """The pipeline of the pair's shared parts and one of its transformers."""
    transformer = pair.family.original(getattr(pair, model), dtype)
    return _quiet(pair.shared["vae"].parent, dtype, transformer=transformer)


def whole_pipeline(source: str) -> DiffusionPipeline:
    """The pipeline of a directory, a hub id or `demo`. Raises PairError."""
    folder = resolve_source(source, "large", known_parts())
    if not (folder / "model_index.json").is_file():
        raise PairError(f"'{source}' is no whole pipeline: no model_index.json", "name the pipeline that large is from")
    return _quiet(folder, torch.float32)


def pipeline_options(facts: Facts) -> dict[str, object]:
    """What makes the pipeline draw the bundle's default picture, but for prompt, steps and noise."""
    width, height = facts.sizes.default
    length = facts.text_tokens - facts.slots[0].length
    guidance = facts.defaults.guidance_scale
    return {"width": width, "height": height, "guidance_scale": guidance, "max_sequence_length": length}


def diffusers_contestant(source: str, manifest: Manifest, threads: int) -> Contestant:
    """Draws with diffusers at its default steps, from the noise that the bundle's schedules start from."""
    torch.set_num_threads(threads)
    pipeline, options, latent = whole_pipeline(source), pipeline_options(manifest.facts), manifest.facts.latent
    width, height = manifest.facts.sizes.default
    shape = (latent.channels, height // latent.vae_scale, width // latent.vae_scale)

    def draw(prompt: Prompt) -> Shot:
        noise = torch.from_numpy(seeded_noise(shape, [prompt.seed]))
        time.sleep(PAUSE_SECONDS)
        start = time.perf_counter()
        made = pipeline(prompt.text, num_inference_steps=DEFAULT_STEPS, latents=noise, output_type="np", **options)
        picture = picture_bytes(np.asarray(made.images))[0]
        seconds = time.perf_counter() - start
        time.sleep(PAUSE_SECONDS)
        return Shot(picture, None, seconds, 0.0, f"{DEFAULT_STEPS} Euler steps", 0.0)

    return draw


def _quiet(folder: Path, dtype: torch.dtype, **parts: object) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
